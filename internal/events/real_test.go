package events_test

import (
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/neuronmill/neuronmill/internal/events"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func commandsOf(t *testing.T, r *redis.Client) int {
	t.Helper()
	_, rest, _ := strings.Cut(r.Info(t.Context(), "stats").Val(), "total_commands_processed:")
	n, err := strconv.Atoi(strings.TrimSpace(strings.SplitN(rest, "\n", 2)[0]))
	require.NoError(t, err)
	return n
}

func TestAThousandFollowersOnTwoReplicasGetEveryEventAndShareOneSubscriptionEach(t *testing.T) {
	server := realtest.Redis(t)
	open := func() *redis.Client {
		r := redis.NewClient(&redis.Options{Addr: server.Addr})
		t.Cleanup(func() { _ = r.Close() })
		return r
	}
	r := open()
	hubs := []*events.Hub{startHub(t, open()), startHub(t, open())}
	w := events.NewWriter(open(), quiet)
	defer w.Close()
	var all []*events.Follower
	for i := range 1000 {
		f, err := hubs[i%2].Follow(t.Context(), "t_a", 0, queued)
		require.NoError(t, err)
		t.Cleanup(f.Close)
		all = append(all, f)
		next(t, f, 1)
	}
	require.EqualValues(t, 2, r.PubSubNumSub(t.Context(), events.Channel).Val()[events.Channel])
	before := commandsOf(t, r)
	var reading sync.WaitGroup
	texts, ends := make([]string, len(all)), make([]error, len(all))
	for i, f := range all {
		reading.Go(func() {
			for {
				e, err := f.Next(t.Context())
				if err != nil {
					ends[i] = err
					return
				}
				if e.Type == events.Running {
					texts[i] = ""
				}
				texts[i] += e.Text
			}
		})
	}
	w.Observe(happened(tasks.EventStarted))
	want := ""
	for i := range 50 {
		part := strconv.Itoa(i) + " "
		want += part
		w.Text("t_a", part)
	}
	w.Observe(finished())
	reading.Wait()
	for i := range all {
		require.Equal(t, want, texts[i])
		require.EqualError(t, ends[i], "EOF")
	}
	require.Less(t, commandsOf(t, r)-before, 100, "commands for 1,000 followers")
}
