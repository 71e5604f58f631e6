// Package worker runs tasks: it takes them from Redis, calls Workers AI at the pace of the
// account's limits and stores the results in a bucket. The command "neuronmill worker" is
// this package with flags; a program may run the same worker beside its own code.
//
// # Run a worker
//
// [New] takes a [Config] with a Redis client, a bucket and the account. [Worker.Run] works
// until its context ends:
//
//	store, err := s3store.Open(ctx, s3store.Config{Bucket: "results"})
//	...
//	w, err := worker.New(worker.Config{
//		Redis: redis.NewClient(&redis.Options{Addr: "127.0.0.1:6379"}),
//		Store: store,
//		AI:    &workersai.Client{AccountID: account, Token: token},
//	})
//	...
//	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
//	defer stop()
//	err = w.Run(ctx)
//
// Without an account, [workersaitest.Server] answers like the API. Packages
// [fsstore] and [storage] have buckets for one machine and for tests.
//
// # Many workers
//
// Start as many as you like, on as many machines. Workers on one Redis share the pace of
// each model and the tasks of dead workers; all need the same Store and the same
// Config.Limits. Producers need that Redis only, see package [tasks].
//
// # Stop
//
// A worker that is told to stop takes no more tasks. Calls under way are paid for, so it
// waits for them and stores their answers: give it minutes rather than seconds before it
// is killed. A killed worker loses no task: others take them over about 36 s later.
//
// [tasks]: https://pkg.go.dev/github.com/neuronmill/neuronmill/tasks
// [storage]: https://pkg.go.dev/github.com/neuronmill/neuronmill/storage
// [fsstore]: https://pkg.go.dev/github.com/neuronmill/neuronmill/storage/fsstore
// [workersaitest.Server]: https://pkg.go.dev/github.com/neuronmill/neuronmill/workersai/workersaitest#Server
package worker
