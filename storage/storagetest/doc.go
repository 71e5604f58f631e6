// Package storagetest has the test suite that every storage.Store must pass.
//
// # Test a store
//
// [Run] needs a func that opens an empty store:
//
//	func TestStore(t *testing.T) {
//		storagetest.Run(t, func(t *testing.T) storage.Store { return mystore.New(t.TempDir()) })
//	}
//
// [Refuses] checks the errors of a bucket that is missing or denied, and [Flat] that large
// objects are never in memory as a whole.
package storagetest
