package ui

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAllWatchersOfAPageShareOneRenderASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stopping := make(chan struct{})
		h := newHub(stopping, slog.New(slog.DiscardHandler))
		renders := 0
		render := func(context.Context) ([]byte, error) {
			renders++
			return []byte(fmt.Sprint(renders / 5)), nil // it changes at every fifth
		}
		var leaves []func()
		var first <-chan []byte
		for i := range 200 {
			c, leave, err := h.watch("overview", render)
			require.NoError(t, err)
			leaves = append(leaves, leave)
			if i == 0 {
				first = c
			}
		}
		time.Sleep(10*time.Second + time.Millisecond)
		synctest.Wait()
		require.Equal(t, 10, renders)
		require.Equal(t, "2", string(<-first), "a slow watcher gets the latest")
		require.Empty(t, first)
		for _, leave := range leaves {
			leave()
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		require.Equal(t, 10, renders, "nobody watches")
		require.False(t, h.running)
		close(stopping)
	})
}

func TestWatchersAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stopping := make(chan struct{})
		h := newHub(stopping, slog.New(slog.DiscardHandler))
		nothing := func(context.Context) ([]byte, error) { return nil, nil }
		for i := range mostTopics {
			_, _, err := h.watch(fmt.Sprint(i), nothing)
			require.NoError(t, err)
		}
		_, _, err := h.watch("one more", nothing)
		require.ErrorIs(t, err, errTooMany)
		close(stopping)
		synctest.Wait()
	})
}

func TestAnEventKeepsTheLinesOfAText(t *testing.T) {
	require.Equal(t, "data: <pre>a\ndata:   b\ndata: \ndata: c</pre>\n\n", string(event([]byte("<pre>a\r\n  b\n\nc</pre>"))))
}

func TestASearchBecomesAnAddress(t *testing.T) {
	for text, address := range map[string]string{"": "/tasks", "t_1": "/tasks/t_1", "kind:image state:failed": "/tasks?kind=image&state=failed"} {
		to, ok := search(text)
		require.True(t, ok)
		require.Equal(t, address, to)
	}
	for _, wrong := range []string{"a:b", "two words", "kind:", "<script>"} {
		_, ok := search(wrong)
		require.False(t, ok, wrong)
	}
}

func TestALoginLeadsToPagesOfTheDashboardOnly(t *testing.T) {
	for _, to := range []string{"", "//evil.example", "https://evil.example", "/\\evil.example", "x", "/a\r\nb"} {
		require.Equal(t, "/", ownPath(to), to)
	}
	require.Equal(t, "/tasks?state=failed", ownPath("/tasks?state=failed"))
}
