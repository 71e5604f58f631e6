package engine_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/handlers"
	"github.com/neuronmill/neuronmill/internal/media"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// audioServer answers requests for audio in synthetic time.
type audioServer struct {
	mu    sync.Mutex
	asked int
	serve func(n int, req *http.Request) (*http.Response, error)
}

func (s *audioServer) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.asked++
	n := s.asked
	s.mu.Unlock()
	return s.serve(n, req)
}

func (s *audioServer) requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// answers returns a response with a body.
func answers(req *http.Request, status int, body io.Reader, size int64) *http.Response {
	return &http.Response{
		StatusCode: status, Header: http.Header{}, Body: io.NopCloser(body), ContentLength: size, Request: req,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
}

// endless is a recording without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// slowly returns one byte per read, after a pause that the request's context can end.
type slowly struct {
	ctx   context.Context
	pause time.Duration
	from  io.Reader
}

func (s *slowly) Read(p []byte) (int, error) {
	select {
	case <-s.ctx.Done():
		return 0, s.ctx.Err()
	case <-time.After(s.pause):
	}
	return s.from.Read(p[:1])
}

const audioURL = "https://media.example.org/talk.wav?signature=secret"

// hears runs a story of transcriptions whose audio is at a URL.
func hears(t *testing.T, serve func(n int, req *http.Request) (*http.Response, error), story func(t *testing.T, r *rig, s *audioServer)) {
	t.Helper()
	alone(t, func(t *testing.T, r *rig) {
		s := &audioServer{serve: serve}
		r.cfg.Handlers = handlers.All(&http.Client{Transport: s})
		r.cfg.Kinds = []tasks.Kind{tasks.KindTranscription}
		r.work()
		story(t, r, s)
	})
}

func wav() []byte { return workersaitest.SampleWAV() }

func TestAudioAtAURLIsDownloadedOnceHoweverOftenItsCallIsTried(t *testing.T) {
	hears(t, func(_ int, req *http.Request) (*http.Response, error) {
		return answers(req, http.StatusOK, bytes.NewReader(wav()), -1), nil
	}, func(t *testing.T, r *rig, s *audioServer) {
		r.ai.Fault(workersaitest.Fault{To: 3, Status: http.StatusInternalServerError, Body: "oops"})
		id := r.enqueue(tasks.Transcription{Audio: tasks.Audio{URL: audioURL}})
		result := r.wait(id)
		require.NotEmpty(t, output[tasks.TranscriptionOutput](t, result).Text)
		require.Equal(t, 4, result.Usage.Calls)
		require.Equal(t, 1, s.requests())
		time.Sleep(5 * time.Second)
		require.NotContains(t, r.keys("default/tasks/"+id), "default/tasks/"+id+"/input-audio", "the copy goes with the end of the task")
		document, err := json.Marshal(result)
		require.NoError(t, err)
		require.NotContains(t, string(document), "secret")
	})
}

func TestADownloadThatTheTaskOutlivesUnusedIsRemoved(t *testing.T) {
	hears(t, func(_ int, req *http.Request) (*http.Response, error) {
		return answers(req, http.StatusOK, bytes.NewReader(wav()), -1), nil
	}, func(t *testing.T, r *rig, _ *audioServer) {
		model := "@cf/openai/whisper-large-v3-turbo"
		require.NoError(t, r.cfg.Gate.Set(t.Context(), model, 0))
		id := r.enqueue(tasks.Transcription{Audio: tasks.Audio{URL: audioURL}}, tasks.WithModel(model), tasks.WithTimeToLive(5*time.Minute))
		time.Sleep(time.Minute)
		require.Contains(t, r.keys("default/tasks/"+id), "default/tasks/"+id+"/input-audio")
		require.Equal(t, tasks.CodeDeadlineExceeded, r.wait(id).Error.Code)
		time.Sleep(time.Minute)
		require.NotContains(t, r.keys("default/tasks/"+id), "default/tasks/"+id+"/input-audio")
		require.Zero(t, r.sent())
	})
}

// Unusable audio costs no call, does not wait for the gate, and fails with a message that
// names the problem.
func TestAudioAtAURLThatIsNotFitCostsNothing(t *testing.T) {
	realtest.Long(t)
	cases := map[string]struct {
		serve func(n int, req *http.Request) (*http.Response, error)
		code  string
		asked int
	}{
		"not found": {func(_ int, q *http.Request) (*http.Response, error) {
			return answers(q, 404, strings.NewReader(""), 0), nil
		}, "fetch_failed", 1},
		"a page": {func(_ int, q *http.Request) (*http.Response, error) {
			return answers(q, 200, strings.NewReader("<!DOCTYPE html>"), -1), nil
		}, "unsupported_media", 1},
		"empty": {func(_ int, q *http.Request) (*http.Response, error) {
			return answers(q, 200, strings.NewReader(""), 0), nil
		}, "unsupported_media", 1},
		"too large": {func(_ int, q *http.Request) (*http.Response, error) {
			return answers(q, 200, endless{}, media.AudioLimit+1), nil
		}, "input_too_large", 1},
		"endless": {func(_ int, q *http.Request) (*http.Response, error) {
			return answers(q, 200, io.MultiReader(bytes.NewReader(wav()), endless{}), -1), nil
		}, "input_too_large", 1},
		"of no sound": {func(_ int, q *http.Request) (*http.Response, error) {
			return answers(q, 200, bytes.NewReader(wav()[:44]), -1), nil
		}, "unsupported_media", 1},
		"compressed": {func(_ int, q *http.Request) (*http.Response, error) {
			resp := answers(q, 200, bytes.NewReader(wav()), -1)
			resp.Header.Set("Content-Encoding", "gzip")
			return resp, nil
		}, "fetch_failed", 1},
		"an address inside": {func(_ int, q *http.Request) (*http.Response, error) {
			resp := answers(q, 302, strings.NewReader(""), 0)
			resp.Header.Set("Location", "https://169.254.169.254/latest/meta-data")
			return resp, nil
		}, "url_not_allowed", 1},
		"dead": {func(int, *http.Request) (*http.Response, error) {
			return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", IsNotFound: true}}
		}, "audio_unreachable", 5},
		"sick": {func(_ int, q *http.Request) (*http.Response, error) {
			return answers(q, 503, strings.NewReader(""), 0), nil
		}, "audio_unreachable", 5},
		"cut": {func(_ int, q *http.Request) (*http.Response, error) {
			return answers(q, 200, io.MultiReader(bytes.NewReader(wav()[:1000]), broken{}), -1), nil
		}, "audio_unreachable", 5},
		"slow": {func(_ int, q *http.Request) (*http.Response, error) {
			return answers(q, 200, &slowly{q.Context(), 10 * time.Second, bytes.NewReader(wav())}, -1), nil
		}, "audio_unreachable", 5},
		"stuck": {func(_ int, q *http.Request) (*http.Response, error) {
			return answers(q, 200, &slowly{q.Context(), time.Hour, bytes.NewReader(wav())}, -1), nil
		}, "audio_unreachable", 5},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hears(t, c.serve, func(t *testing.T, r *rig, s *audioServer) {
				model := "@cf/openai/whisper-large-v3-turbo"
				require.NoError(t, r.cfg.Gate.Set(t.Context(), model, 0), "the gate is closed, and is not asked")
				start := time.Now()
				result := r.wait(r.enqueue(tasks.Transcription{Audio: tasks.Audio{URL: audioURL}}, tasks.WithModel(model)))
				require.NotNil(t, result.Error)
				require.Equal(t, c.code, result.Error.Code, result.Error.Message)
				require.NotContains(t, result.Error.Message, "secret")
				require.Equal(t, c.asked, s.requests())
				require.Less(t, time.Since(start), 2*time.Hour)
				require.Zero(t, r.sent())
				require.Equal(t, []int{0, 0}, []int{result.Usage.Calls, result.Usage.Unsettled})
				time.Sleep(time.Minute)
				for _, key := range r.keys("default/tasks/") {
					require.NotContains(t, key, "input-audio")
				}
			})
		})
	}
}

// broken is a body that breaks off.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestAnAudioServerThatIsBackSoonCostsItsTaskNothing(t *testing.T) {
	hears(t, func(n int, req *http.Request) (*http.Response, error) {
		if n < 4 {
			return answers(req, 502, strings.NewReader(""), 0), nil
		}
		return answers(req, 200, bytes.NewReader(wav()), -1), nil
	}, func(t *testing.T, r *rig, _ *audioServer) {
		result := r.wait(r.enqueue(tasks.Transcription{Audio: tasks.Audio{URL: audioURL}}))
		require.Equal(t, tasks.Completed, result.Status)
		require.Equal(t, 1, result.Usage.Calls)
		require.Equal(t, 4, result.Attempts)
	})
}

func TestACancelEndsADownload(t *testing.T) {
	hears(t, func(_ int, req *http.Request) (*http.Response, error) {
		return answers(req, 200, &slowly{req.Context(), 20 * time.Second, bytes.NewReader(wav())}, -1), nil
	}, func(t *testing.T, r *rig, _ *audioServer) {
		id := r.enqueue(tasks.Transcription{Audio: tasks.Audio{URL: audioURL}})
		time.Sleep(time.Minute)
		require.NoError(t, r.client.Cancel(t.Context(), id))
		start := time.Now()
		require.Equal(t, tasks.CodeCancelled, r.wait(id).Error.Code)
		require.Less(t, time.Since(start), 10*time.Second)
	})
}

func TestAudioOfTheBucketIsCheckedBeforeTheGateIsAsked(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		model := "@cf/openai/whisper-large-v3-turbo"
		require.NoError(t, r.cfg.Gate.Set(t.Context(), model, 0))
		silent := r.put("default/files/silent.wav", string(wav()[:44]))
		other := r.put("other/files/a.wav", string(wav()))
		for key, code := range map[string]string{silent: "unsupported_media", "default/files/none": "input_not_found"} {
			result := r.wait(r.enqueue(tasks.Transcription{Audio: tasks.Audio{Key: key}}, tasks.WithModel(model)))
			require.Equal(t, code, result.Error.Code, key)
		}
		// No client would accept this task: the worker must check the URL itself.
		require.NoError(t, r.client.Requeue(t.Context(), tasks.Task{
			Version: 1, ID: "t_x", Tenant: "default", Kind: tasks.KindTranscription, Lane: tasks.Interactive, Model: model,
			Payload: json.RawMessage(`{"audio":{"key":"` + other + `"}}`), CreatedAt: time.Now(), Deadline: time.Now().Add(time.Hour),
		}))
		require.Equal(t, tasks.CodeInputNotFound, r.wait("t_x").Error.Code)
		require.Zero(t, r.sent())
	}, tasks.KindTranscription)
}

// breaksOff is a bucket whose audio breaks off halfway, a set number of times.
type breaksOff struct {
	storage.Store
	mu    sync.Mutex
	times int
}

func (s *breaksOff) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	body, err := s.Store.Get(ctx, key)
	if err != nil || !strings.HasSuffix(key, ".wav") {
		return body, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.times--
	if s.times >= 0 && s.times%2 == 0 { // the check before each call reads only the beginning
		return io.NopCloser(io.MultiReader(io.LimitReader(body, 70000), broken{})), nil
	}
	return body, nil
}

// A recording that breaks off costs nothing and does not count against Workers AI.
func TestAudioThatBreaksOffInTheBucketIsNotTheModelsFailure(t *testing.T) {
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindTranscription}
		r.cfg.Store = &breaksOff{Store: r.store, times: 12}
		key := r.put("default/files/a.wav", string(wav()))
		r.work()
		result := r.wait(r.enqueue(tasks.Transcription{Audio: tasks.Audio{Key: key}}))
		require.Equal(t, tasks.Completed, result.Status, "%v", result.Error)
		require.Equal(t, []int{0, 1}, []int{result.Usage.Unsettled, result.Attempts})
		require.Greater(t, result.Usage.Calls, 5)
	})
}

// Damaged stored data ends its task or is repaired. It does not cause retries until the
// deadline.
func TestDamagedStoredDataEndsItsTask(t *testing.T) {
	now := time.Now
	damages := map[string]struct {
		spoil func(r *rig, task *tasks.Task)
		code  string // "" if the task completes
	}{
		"tenant":    {func(_ *rig, task *tasks.Task) { task.Tenant = "a/../b" }, "payload_invalid"},
		"input key": {func(_ *rig, task *tasks.Task) { task.Payload, task.InputKey = nil, "default//x" }, "payload_invalid"},
		"input document": {func(r *rig, task *tasks.Task) {
			task.Payload, task.InputKey = nil, r.put("default/tasks/t_x/input.json", `{"prompt":`)
		}, "input_damaged"},
		"payload": {func(_ *rig, task *tasks.Task) { task.Payload = json.RawMessage(`{"prompt":7}`) }, "payload_invalid"},
		"record":  {func(r *rig, task *tasks.Task) { r.redis.Set(r.t.Context(), taskstate.LiveKey(task.ID), "nonsense", 0) }, ""},
		"record's fields": {func(r *rig, task *tasks.Task) {
			r.redis.HSet(r.t.Context(), taskstate.LiveKey(task.ID), "attempts", "x", "calls", "y", "settled", "z", "unpaid", "", "crashes", "1e9", "neurons", "1:a 2 :3", "failure", "{")
		}, ""},
		"stored answer": {func(r *rig, task *tasks.Task) {
			r.redis.HSet(r.t.Context(), taskstate.LiveKey(task.ID), "calls", 1)
			r.put("default/tasks/"+task.ID+"/answer.json", `{"model":`)
		}, ""},
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T, r *rig) {
				task := tasks.Task{Version: 1, ID: "t_x", Tenant: "default", Kind: tasks.KindText, Lane: tasks.Interactive,
					Model: "@cf/zai-org/glm-4.7-flash", Payload: json.RawMessage(`{"prompt":"hi"}`), CreatedAt: now(), Deadline: now().Add(72 * time.Hour)}
				damage.spoil(r, &task)
				require.NoError(t, r.client.Requeue(t.Context(), task))
				r.work()
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
				defer cancel()
				result, err := r.client.Wait(ctx, "t_x")
				require.NoError(t, err)
				if damage.code == "" {
					require.Nil(t, result.Error)
					return
				}
				require.NotNil(t, result.Error)
				require.Equal(t, damage.code, result.Error.Code)
				require.Zero(t, r.sent())
				time.Sleep(time.Minute)
				require.Zero(t, r.redis.Exists(t.Context(), textQueue+"t:t_x").Val())
			})
		})
	}
}
