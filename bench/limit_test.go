package main

import (
	"net/http"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// calls returns a log with an answer 200 at each given second, and a 429 half a second
// later.
func calls(seconds ...float64) []workersaitest.Request {
	var log []workersaitest.Request
	for _, s := range seconds {
		at := noon.Add(time.Duration(s * float64(time.Second)))
		log = append(log, workersaitest.Request{At: at, Status: http.StatusOK}, workersaitest.Request{At: at.Add(500 * time.Millisecond), Status: http.StatusTooManyRequests})
	}
	return log
}

func used(perMinute int, from, to, end float64, log []workersaitest.Request) limitCell {
	at := func(s float64) time.Time { return noon.Add(time.Duration(s * float64(time.Second))) }
	c := limitCell{PerMinute: perMinute, p: pace{perMinute, time.Minute}}
	c.judge(log, at(from), at(to), at(end))
	return c
}

func TestASlowPaceIsNotRoundedToWholeCalls(t *testing.T) {
	c := used(20, 4, 19, 30, calls(0, 3, 6, 9, 12, 15, 18, 21))
	require.InDelta(t, 1, c.Used, 1e-9)
	require.Equal(t, 5, c.Refused)
	require.Equal(t, 8, c.Done)
	require.Equal(t, 16, c.Sent)
}

func TestAFleetThatStopsHasNotUsedTheRest(t *testing.T) {
	c := used(60, 1, 11, 21, calls(0, 1, 2, 3))
	require.InDelta(t, 2.0/10+8.0/18/10, c.Used, 1e-9)
}

func TestAFleetThatNeverCalledHasUsedNothing(t *testing.T) {
	require.Zero(t, used(60, 1, 11, 21, nil).Used)
}
