// Package workersaitest is an emulator of Workers AI. It is one http.Handler that answers
// for every model of the catalogue in that model's own form. It refuses as the API does,
// enforces limits per minute, and fails on demand.
//
// # Call it
//
// [New] creates an emulator. [Server.Client] calls it without opening a port, also in
// synthetic time. Over HTTP it answers at any address that serves it.
//
// # Make it fail
//
// A [Fault] makes calls fail or hang, or gives them one of the [Oddities]: unusual answers
// that have been observed.
//
// # Inspect requests
//
// [Server.Requests] is the log: each call, and whether it was billed.
package workersaitest
