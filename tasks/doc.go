// Package tasks is what a producer needs: the kinds of work, their payloads and
// results, and the Client that puts tasks into Redis and finds them again. Begin with
// NewClient and Client.Enqueue; Specs lists what can be asked for.
//
// It links neither the AWS SDK nor any server. A backend that wants more durability
// than Redis gives, or sends inputs that are too large for it, passes a storage.Store.
package tasks
