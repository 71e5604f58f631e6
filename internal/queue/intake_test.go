package queue_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hibiken/asynq"
	"github.com/neuronmill/neuronmill/internal/queue"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

const (
	interactive = "text:interactive"
	bulk        = "text:bulk"
)

var two = []queue.Slots{{Queue: interactive, Slots: 2}, {Queue: bulk, Bulk: true, Slots: 1}}

// serve runs a server until the test ends or stop is called.
func serve(t *testing.T, client *redis.Client, slots []queue.Slots, poll time.Duration, handle func(context.Context, queue.Delivery) error) (stop func()) {
	t.Helper()
	breaker := queue.NewBreaker(slog.New(slog.DiscardHandler))
	client.AddHook(breaker)
	server := queue.NewServer(queue.ServerConfig{
		Redis: client, Breaker: breaker, Slots: slots, Poll: poll, ShutdownTimeout: time.Second, Log: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	var listening sync.WaitGroup
	listening.Go(func() { _ = server.Run(ctx) })
	require.NoError(t, server.Start(handle))
	stop = sync.OnceFunc(func() {
		server.Shutdown()
		cancel()
		listening.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// whole returns queues of which every list may have members.
func whole(names ...string) map[string]queue.Holds {
	queues := map[string]queue.Holds{}
	for _, name := range names {
		queues[name] = queue.Holds{Pending: true, Scheduled: true, Retry: true}
	}
	return queues
}

// push enqueues tasks as producers do.
func push(t *testing.T, client *redis.Client, name string, ids ...string) {
	t.Helper()
	var entries []queue.Entry
	for _, id := range ids {
		entries = append(entries, queue.Entry{
			Queue: name, ID: id, Model: "m", Message: queue.EncodeMessage(name, id, "text", []byte("{}")),
			Accepted: time.Now(), Expires: time.Now().Add(time.Hour),
		})
	}
	for _, p := range queue.Push(t.Context(), client, entries) {
		require.NoError(t, p.Err)
	}
}

// pushSilently enqueues a task without an announcement, as asynq's own client does.
func pushSilently(t *testing.T, client *redis.Client, name, id string) {
	t.Helper()
	_, err := asynq.NewClientFromRedisClient(client).EnqueueContext(t.Context(), asynq.NewTask("text", nil), asynq.Queue(name), asynq.TaskID(id))
	require.NoError(t, err)
}

func taking(taken chan<- time.Time) func(context.Context, queue.Delivery) error {
	return func(context.Context, queue.Delivery) error { taken <- time.Now(); return nil }
}

func TestAPushIntoAnEmptyQueueIsTakenWithoutAnyTimePassing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := redistest.New(t)
		taken := make(chan time.Time, 10)
		serve(t, s.Client(nil), two, 0, taking(taken))
		producer := s.Client(nil)
		for i, name := range []string{interactive, bulk, interactive} {
			time.Sleep(10*time.Second + 123*time.Millisecond)
			pushed := time.Now()
			push(t, producer, name, fmt.Sprint("t", i))
			require.Zero(t, (<-taken).Sub(pushed), name)
		}
	})
}

func TestAnIdleServerHardlyAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := redistest.New(t)
		serve(t, s.Client(nil), two, 0, taking(nil))
		time.Sleep(time.Minute)
		before := s.Commands()
		time.Sleep(10 * time.Minute)
		perSecond := float64(s.Commands()-before) / 600
		require.Less(t, perSecond, 2.0, "the rest is asynq's heartbeat and pings of two subscriptions")
	})
}

func TestATaskWithoutAnAnnouncementIsTakenWhenTheLeaderAnnouncesItsQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := redistest.New(t)
		taken := make(chan time.Time, 1)
		serve(t, s.Client(nil), two, 0, taking(taken))
		client := s.Client(nil)
		time.Sleep(5 * time.Second)
		pushSilently(t, client, bulk, "t1")
		time.Sleep(5 * time.Second)
		require.Empty(t, taken)
		announced := time.Now()
		_, err := queue.MoveDue(t.Context(), client, whole(bulk))
		require.NoError(t, err)
		require.Zero(t, (<-taken).Sub(announced))
	})
}

func TestAPausedQueueIsNotAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := redistest.New(t)
		client := s.Client(nil)
		require.NoError(t, asynq.NewInspectorFromRedisClient(client).PauseQueue(bulk))
		sub := client.Subscribe(t.Context(), queue.WakeChannel)
		defer sub.Close()
		_, err := sub.Receive(t.Context())
		require.NoError(t, err)
		pushSilently(t, client, bulk, "t1")
		pushSilently(t, client, interactive, "t2")
		_, err = queue.MoveDue(t.Context(), client, whole(bulk, interactive))
		require.NoError(t, err)
		m, err := sub.ReceiveMessage(t.Context())
		require.NoError(t, err)
		require.Contains(t, m.Payload, interactive+" @")
	})
}

// Due tasks are moved in their order, and a server that waits for one is woken.
func TestADueTaskIsAnnouncedWhenItIsMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := redistest.New(t)
		client := s.Client(nil)
		taken := make(chan time.Time, 1)
		serve(t, s.Client(nil), two, 0, taking(taken))
		start := time.Now().Truncate(time.Second).Add(30 * time.Second)
		for _, p := range queue.Push(t.Context(), client, []queue.Entry{{
			Queue: bulk, ID: "t1", Message: queue.EncodeMessage(bulk, "t1", "text", []byte("{}")), StartAt: start, Expires: start.Add(time.Hour),
		}}) {
			require.NoError(t, p.Err)
		}
		next, err := queue.MoveDue(t.Context(), client, whole(bulk))
		require.NoError(t, err)
		require.Equal(t, start, next)
		require.Empty(t, taken)
		time.Sleep(time.Until(start))
		_, err = queue.MoveDue(t.Context(), client, whole(bulk))
		require.NoError(t, err)
		require.Equal(t, start, <-taken)
	})
}

func TestARedisWithoutPubSubIsPolled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := redistest.New(t)
		taken := make(chan time.Time, 1)
		serve(t, s.Client(nil), two, 50*time.Millisecond, taking(taken))
		client := s.Client(nil)
		time.Sleep(5 * time.Second)
		require.Zero(t, client.PubSubNumSub(t.Context(), queue.WakeChannel).Val()[queue.WakeChannel])
		for name, most := range map[string]time.Duration{interactive: 50 * time.Millisecond, bulk: 300 * time.Millisecond} {
			pushed := time.Now()
			pushSilently(t, client, name, "t1")
			require.LessOrEqual(t, (<-taken).Sub(pushed), most, name)
		}
	})
}

func TestALaneNeverHoldsMoreThanItsSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := redistest.New(t)
		var running, most, quick atomic.Int64
		serve(t, s.Client(nil), two, 0, func(_ context.Context, d queue.Delivery) error {
			if d.Queue == interactive {
				quick.Add(1)
				return nil
			}
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			time.Sleep(10 * time.Second)
			return nil
		})
		client := s.Client(nil)
		push(t, client, bulk, "b1", "b2", "b3", "b4", "b5")
		time.Sleep(time.Second)
		pushed := time.Now()
		for i := range 20 {
			push(t, client, interactive, fmt.Sprint("i", i))
		}
		synctest.Wait()
		require.EqualValues(t, 20, quick.Load(), "the full lane does not hold up the other")
		require.Zero(t, time.Since(pushed))
		time.Sleep(time.Minute)
		require.EqualValues(t, 1, most.Load())
		require.Zero(t, running.Load(), "all were run")
	})
}

// asynq computes the end of the lease before it sends the take: a take that waited first
// would give out a task with a lease that has run out, and the task would run twice.
func TestATaskThatComesAfterALongWaitHasAWholeLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := redistest.New(t)
		lease := make(chan time.Duration, 1)
		client := s.Client(nil)
		serve(t, s.Client(nil), two, 0, func(ctx context.Context, d queue.Delivery) error {
			until := client.ZScore(ctx, "asynq:{"+d.Queue+"}:lease", d.ID).Val()
			lease <- time.Until(time.Unix(int64(until), 0))
			return nil
		})
		time.Sleep(45*time.Second + 500*time.Millisecond)
		push(t, client, interactive, "t1")
		require.Greater(t, <-lease, 28*time.Second)
	})
}

func TestADamagedMessageKeepsNoSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := redistest.New(t)
		done := make(chan string, 10)
		serve(t, s.Client(nil), two, 0, func(_ context.Context, d queue.Delivery) error { done <- d.ID; return nil })
		client := s.Client(nil)
		for i := range 3 {
			id := fmt.Sprint("bad", i)
			require.NoError(t, client.HSet(t.Context(), "asynq:{text:bulk}:t:"+id, "msg", "\xff\xff\xff", "state", "pending").Err())
			require.NoError(t, client.LPush(t.Context(), "asynq:{text:bulk}:pending", id).Err())
		}
		push(t, client, bulk, "good")
		_, err := queue.MoveDue(t.Context(), client, whole(bulk))
		require.NoError(t, err)
		require.Equal(t, "good", <-done)
	})
}

func TestAnIdleServerShutsDownAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := redistest.New(t)
		stop := serve(t, s.Client(nil), two, 0, taking(nil))
		time.Sleep(10*time.Second + 500*time.Millisecond)
		start := time.Now()
		stop()
		require.Less(t, time.Since(start), 100*time.Millisecond)
	})
}

func TestATaskThatOutlastsTheShutdownReturnsToItsQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := redistest.New(t)
		client := s.Client(nil)
		started, release := make(chan bool, 1), make(chan bool)
		stop := serve(t, s.Client(nil), two, 0, func(context.Context, queue.Delivery) error {
			started <- true
			<-release
			return nil
		})
		push(t, client, interactive, "t1")
		<-started
		start := time.Now()
		stop()
		require.Less(t, time.Since(start), 2*time.Second)
		require.Equal(t, []string{"t1"}, client.LRange(t.Context(), "asynq:{text:interactive}:pending", 0, -1).Val())
		close(release)
	})
}

// While the subscription is lost the empty queues are asked every second, and once it is
// back each is asked for what was announced meanwhile.
func TestALostSubscriptionFallsBackToALookEverySecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := redistest.New(t)
		link := &redistest.Link{}
		taken := make(chan time.Time, 1)
		serve(t, s.Client(link), two, 0, taking(taken))
		client := s.Client(nil)
		time.Sleep(5 * time.Second)
		link.Cut()
		push(t, client, interactive, "t1") // no server hears it
		time.Sleep(3 * time.Second)
		healed := time.Now()
		link.Mend()
		require.LessOrEqual(t, (<-taken).Sub(healed), 3*time.Second)
		time.Sleep(20 * time.Second)
		pushed := time.Now()
		push(t, client, bulk, "t2")
		require.Zero(t, (<-taken).Sub(pushed), "announcements arrive again")
	})
}

// A worker whose subscriptions are refused takes tasks within a second.
func TestWithoutASubscriptionTheQueuesAreAskedEverySecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := redistest.New(t)
		client := s.Client(nil)
		taken := make(chan time.Time, 1)
		worker := s.Client(nil)
		in := queue.NewIntake(two, 0, slog.New(slog.DiscardHandler)) // Run is not called
		server := asynq.NewServerFromRedisClient(in.Client(worker), asynq.Config{
			Concurrency: in.Concurrency(), Queues: in.Queues(), TaskCheckInterval: 1, LogLevel: asynq.FatalLevel,
		})
		require.NoError(t, server.Start(asynq.HandlerFunc(func(context.Context, *asynq.Task) error { taken <- time.Now(); return nil })))
		for i, name := range []string{interactive, bulk} {
			time.Sleep(5*time.Second + 100*time.Millisecond)
			pushed := time.Now()
			push(t, client, name, fmt.Sprint("t", i))
			require.LessOrEqual(t, (<-taken).Sub(pushed), 2*time.Second)
		}
		in.Stop()
		server.Shutdown()
	})
}

func TestEveryWayBackIntoAnEmptyQueueIsAnnounced(t *testing.T) {
	back := map[string]func(t *testing.T, client *redis.Client){
		"an expired lease": func(t *testing.T, client *redis.Client) {
			require.NoError(t, client.ZAdd(t.Context(), "asynq:{text:bulk}:lease", redis.Z{Score: 1, Member: "t1"}).Err())
			require.NoError(t, client.HSet(t.Context(), "asynq:{text:bulk}:t:t1", "state", "active").Err())
			moved, err := queue.ReturnLease(t.Context(), client, bulk, "t1", time.Now())
			require.NoError(t, err)
			require.True(t, moved)
		},
		"a re-admission": func(t *testing.T, client *redis.Client) {
			require.NoError(t, queue.Defer(t.Context(), client, bulk, "m", "t1", time.Now()))
			require.NoError(t, client.ZAdd(t.Context(), "asynq:{text:bulk}:retry", redis.Z{Score: 1e10, Member: "t1"}).Err())
			require.NoError(t, queue.Readmit(t.Context(), client, bulk, "m", 5))
		},
		"a retry that is due": func(t *testing.T, client *redis.Client) {
			require.NoError(t, client.ZAdd(t.Context(), "asynq:{text:bulk}:retry", redis.Z{Score: 1, Member: "t1"}).Err())
			_, err := queue.MoveDue(t.Context(), client, map[string]queue.Holds{bulk: {Retry: true}})
			require.NoError(t, err)
		},
	}
	for name, put := range back {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := redistest.New(t)
				client := s.Client(nil)
				sub := client.Subscribe(t.Context(), queue.WakeChannel)
				defer sub.Close()
				_, err := sub.Receive(t.Context())
				require.NoError(t, err)
				require.NoError(t, client.HSet(t.Context(), "asynq:{text:bulk}:t:t1", "msg", "x", "turn", "1 2 m").Err())
				put(t, client)
				require.Equal(t, []string{"t1"}, client.LRange(t.Context(), "asynq:{text:bulk}:pending", 0, -1).Val())
				m, err := sub.ReceiveMessage(t.Context())
				require.NoError(t, err)
				require.Equal(t, "text:bulk t1", m.Payload)
			})
		})
	}
}

// asynq panics when the client of its subscription is closed.
func TestARedisClientThatIsClosedTooEarlyDoesNotEndTheProgram(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := redistest.Memory(t)
		stop := serve(t, client, two, 0, func(context.Context, queue.Delivery) error { return nil })
		time.Sleep(time.Second)
		require.NoError(t, client.Close())
		time.Sleep(10 * time.Second)
		stop()
	})
}
