// Package tasks is the producer's API: the kinds of work, their payloads and results,
// and the [Client] that enqueues tasks and returns their results.
//
// # Enqueue and wait
//
// [NewClient] takes a Redis client and optional settings, see [Config]. [Do] enqueues one
// task, waits for it and returns its output:
//
//	client := tasks.NewClient(tasks.Config{Redis: rdb})
//	output, err := tasks.Do(ctx, client, tasks.Translation{Text: "Good morning", TargetLang: "es"})
//
// [Client.Enqueue] accepts one task and returns its receipt, [Client.EnqueueMany] many in
// few round trips. [Client.Wait] returns the result once the task has ended, in any
// process, and [OutputOf] decodes its output:
//
//	receipt, err := client.Enqueue(ctx, tasks.Text{Prompt: "Name three rivers"})
//	...
//	result, err := client.Wait(ctx, receipt.ID)
//	...
//	output, err := tasks.OutputOf[tasks.TextOutput](result)
//
// # Kinds and options
//
// The payloads are [Transcription], [Image], [Translation], [Embedding] and [Text];
// [Specs] has the limits of each kind. Each [Option] changes one task:
// [WithLane], [WithModel], [WithDeadline], [WithDelay], [WithMetadata] and others.
// [Check] validates a task without enqueuing it. [Parse] reads a payload from JSON.
//
// # Errors
//
// [ValidationError] lists everything wrong with an input. [ErrUnknownOutcome] means that the
// task may run: repeat the call with the same [WithIdempotencyKey]. After any other error
// of Enqueue the task never runs. A failed task has a [TaskError] in its [Result].
// [CodeOf] returns the stable code of a call's error, and [Codes] explains all codes.
//
// # Durability
//
// Without a [storage.Store] a task is as durable as Redis, and large inputs are refused.
// With one, an accepted task survives the loss of Redis, see [InStore]; [Client.Recover]
// puts lost tasks back. This package links neither the AWS SDK nor a server.
//
// # Inspect, cancel, retry
//
// [Client.Get], [Client.List] and [Client.Result] read without waiting. [Client.Cancel]
// ends a task early. [Client.DeadLetters] lists failed tasks, [Client.Retry] runs one again, and
// [Client.Drop] removes one from the list.
//
// [storage.Store]: https://pkg.go.dev/github.com/neuronmill/neuronmill/storage#Store
package tasks
