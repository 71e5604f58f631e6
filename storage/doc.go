// Package storage defines the bucket in which neuronmill keeps its results, as the
// interface [Store].
//
// # Stores
//
// Package [fsstore] stores objects in a folder, package [s3store] in any S3-compatible
// service, Cloudflare R2 included. [Memory] is a Store for tests.
//
// # Requirements of a store
//
// Each task has at most one result. Workers write it with [Store.Create], which must fail
// with [ErrExists] if there is one, even when two workers create it at once. [Preflight]
// checks a bucket for that, and a worker refuses a bucket that fails.
//
// Errors must be exact, because a worker pays for a second call when it takes a stored
// result for missing. [ErrNotFound] means that the bucket exists and lacks the object;
// [ErrNoBucket] and [ErrDenied] are for everything else that looks empty.
// [ErrNotWritten] accompanies a failed write that certainly has stored nothing.
//
// # A store of your own
//
// Implement Store, and run the suite of package [storagetest] in its tests. A store that
// can delete many objects in one request also implements [ManyDeleter], one that can read a
// part of an object [RangeGetter], one that can make links [Presigner].
//
// [fsstore]: https://pkg.go.dev/github.com/neuronmill/neuronmill/storage/fsstore
// [s3store]: https://pkg.go.dev/github.com/neuronmill/neuronmill/storage/s3store
// [storagetest]: https://pkg.go.dev/github.com/neuronmill/neuronmill/storage/storagetest
package storage
