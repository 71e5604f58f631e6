package openaiapi_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/api/openaiapi"
	"github.com/neuronmill/neuronmill/internal/gate"
	"github.com/neuronmill/neuronmill/internal/limits"
	"github.com/neuronmill/neuronmill/internal/monitor"
	"github.com/neuronmill/neuronmill/internal/openai"
	"github.com/neuronmill/neuronmill/internal/redistest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/worker"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// stage has the routes, a worker and the emulator on one Redis and bucket.
type stage struct {
	t        *testing.T
	handler  *openaiapi.Handler
	store    *storage.Memory
	emulator *workersaitest.Server
	client   *tasks.Client
	redis    *redis.Client

	stopWorker func()
}

// onStage runs a test in synthetic time. limits are requests a minute.
func onStage(t *testing.T, perMinute map[string]int, test func(t *testing.T, s *stage)) {
	synctest.Test(t, func(t *testing.T) {
		rdb, log := redistest.Memory(t), slog.New(slog.DiscardHandler)
		s := &stage{t: t, redis: rdb, store: storage.NewMemory(), emulator: workersaitest.New(workersaitest.Options{NoLimits: true})}
		w, err := worker.New(worker.Config{Redis: rdb, Store: s.store, AI: s.emulator.Client(), Limits: perMinute, Log: log, Poll: time.Second})
		require.NoError(t, err)
		s.client = tasks.NewClient(tasks.Config{Redis: rdb, Store: s.store})
		cfg := openaiapi.Config{
			Redis: rdb, Store: s.store, Log: log,
			Caller: func(r *http.Request) (openaiapi.Caller, error) {
				if r.Header.Get("Authorization") == "Bearer other" {
					return openaiapi.Caller{Client: tasks.NewClient(tasks.Config{Redis: rdb, Store: s.store, Tenant: "other"}), Tenant: "other", Key: "k2"}, nil
				}
				if r.Header.Get("Authorization") != "Bearer good" {
					return openaiapi.Caller{}, openai.Unauthorized()
				}
				return openaiapi.Caller{Client: s.client, Tenant: "default", Key: "k1"}, nil
			},
		}
		cfg.Ask(&monitor.Monitor{Redis: rdb}, gate.New(gate.Config{Redis: rdb, Pace: limits.Limits(perMinute).Pace, Log: log}))
		s.handler = openaiapi.New(cfg)

		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		s.stopWorker = sync.OnceFunc(func() { stop(); require.NoError(t, <-done) })
		defer func() {
			s.handler.Close()
			s.stopWorker()
		}()
		time.Sleep(time.Second) // the worker has shown that it lives
		test(t, s)
	})
}

// request makes a request with a valid key. headers are names and values in turn.
func request(method, route, body string, headers ...string) *http.Request {
	r := httptest.NewRequest(method, route, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer good")
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

func (s *stage) serve(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.handler.ServeHTTP(w, r)
	return w
}

func (s *stage) post(route, body string, headers ...string) *httptest.ResponseRecorder {
	return s.serve(request(http.MethodPost, route, body, headers...))
}

// refused is an error as clients read it.
type refused struct {
	Message, Type string
	Param, Code   *string
}

func (s *stage) requireRefused(w *httptest.ResponseRecorder, status int, code string) refused {
	s.t.Helper()
	require.Equal(s.t, status, w.Code, w.Body.String())
	var body struct{ Error refused }
	require.NoError(s.t, json.Unmarshal(w.Body.Bytes(), &body))
	require.NotEmpty(s.t, body.Error.Message)
	require.NotEmpty(s.t, w.Header().Get("x-request-id"))
	if code == "" {
		require.Nil(s.t, body.Error.Code)
	} else {
		require.NotNil(s.t, body.Error.Code)
		require.Equal(s.t, code, *body.Error.Code)
	}
	return body.Error
}

const (
	hello = `{"model":"glm-4.7-flash","messages":[{"role":"user","content":"Hello"}]}`
	texts = `{"model":"bge-m3","input":["a","b"]}`
)

func streaming(body string) string { return strings.TrimSuffix(body, "}") + `,"stream":true}` }

func TestRequestsAreAnswered(t *testing.T) {
	onStage(t, nil, func(t *testing.T, s *stage) {
		w := s.post(openai.Embeddings, texts)
		require.Equal(t, 200, w.Code, w.Body.String())
		require.Contains(t, w.Body.String(), `"object":"embedding","index":1,"embedding":[`)
		require.NotEmpty(t, w.Header().Get("x-neuronmill-task"))
		require.NotEmpty(t, w.Header().Get("x-neuronmill-neurons"))

		w = s.post(openai.Chat, hello)
		require.Equal(t, 200, w.Code, w.Body.String())
		require.Contains(t, w.Body.String(), `You asked: \"Hello\"`)
		require.Regexp(t, `"prompt_tokens":[1-9]`, w.Body.String())

		w = s.post(openai.Images, `{"model":"flux-1-schnell","prompt":"a mill"}`)
		require.Equal(t, 200, w.Code, w.Body.String())
		require.Contains(t, w.Body.String(), `"b64_json":"`)

		require.Equal(t, 200, s.serve(request(http.MethodGet, "/v1/models", "")).Code)
		require.Contains(t, s.serve(request(http.MethodGet, "/v1/models/@cf%2Fbaai%2Fbge-m3", "")).Body.String(), "@cf/baai/bge-m3")
	})
}

func TestFaultsOfRequestsAreRefusedInTheEnvelope(t *testing.T) {
	onStage(t, nil, func(t *testing.T, s *stage) {
		s.requireRefused(s.post(openai.Chat, hello, "Authorization", "Bearer bad"), 401, "invalid_api_key")
		s.requireRefused(s.post("/v1/moderations", `{}`), 404, "unknown_url")
		s.requireRefused(s.serve(request(http.MethodGet, "/v1/models/gpt", "")), 404, "model_not_found")
		e := s.requireRefused(s.post(openai.Chat, `{"model":"glm-4.7-flash","messages":[]}`), 400, "")
		require.Equal(t, "messages", *e.Param)
		e = s.requireRefused(s.post(openai.Images, `{"model":"flux-1-schnell","prompt":"a","negative_prompt":"b"}`), 400, "")
		require.Equal(t, "negative_prompt", *e.Param)
		s.requireRefused(s.post(openai.Chat, hello, "X-Neuronmill-Max-Wait", "soon"), 400, "")
		s.requireRefused(s.post(openai.Transcriptions, `x`, "Content-Type", "text/plain"), 415, "")
		s.requireRefused(s.post(openai.Chat, strings.Repeat(" ", 33<<20)), 413, "input_too_large")
		require.Empty(t, s.emulator.Requests())
	})
}

func TestFailuresOfTheAPIKeepTheirMeaning(t *testing.T) {
	onStage(t, nil, func(t *testing.T, s *stage) {
		s.emulator.Fault(workersaitest.Fault{Contains: "long", Code: 5021})
		s.emulator.Fault(workersaitest.Fault{Contains: "flagged", Code: 8007})
		ask := func(text string) *httptest.ResponseRecorder {
			return s.post(openai.Chat, strings.Replace(hello, "Hello", text, 1))
		}
		s.requireRefused(ask("long"), 400, "context_length_exceeded")
		s.requireRefused(ask("flagged"), 400, "content_filter")
	})
}

func TestARequestThatWouldWaitTooLongIsRefusedAtOnce(t *testing.T) {
	onStage(t, map[string]int{"text": 1}, func(t *testing.T, s *stage) {
		require.Equal(t, 200, s.post(openai.Chat, hello).Code)
		begun := time.Now()
		w := s.post(openai.Chat, hello, "X-Neuronmill-Max-Wait", "30")
		require.Less(t, time.Since(begun), time.Second)
		e := s.requireRefused(w, 429, "rate_limit_exceeded")
		require.Equal(t, "rate_limit_error", e.Type)
		ms, err := strconv.Atoi(w.Header().Get("retry-after-ms"))
		require.NoError(t, err)
		require.InDelta(t, 60_000, ms, 3000, "the true time until the gate's next slot")
		require.NotEmpty(t, w.Header().Get("retry-after"))
		require.Equal(t, 200, s.post(openai.Chat, hello, "X-Neuronmill-Max-Wait", "90").Code, "it may wait for so long")
		require.Len(t, s.emulator.Requests(), 2)
	})
}

func TestOfTwoRequestsAtOnceTheSecondIsRefusedSoon(t *testing.T) {
	onStage(t, map[string]int{"text": 1}, func(t *testing.T, s *stage) {
		begun, took := time.Now(), make(chan time.Duration, 2)
		codes := make(chan int, 2)
		for range 2 {
			go func() {
				w := s.post(openai.Chat, hello, "X-Neuronmill-Max-Wait", "30")
				took <- time.Since(begun)
				codes <- w.Code
			}()
		}
		require.ElementsMatch(t, []int{200, 429}, []int{<-codes, <-codes})
		require.Less(t, max(<-took, <-took), 10*time.Second)
		time.Sleep(2 * time.Minute)
		require.Len(t, s.emulator.Requests(), 1)
	})
}

// The task of a refused request is cancelled, and keeps its place until a worker learns of
// that. The next request does not wait for it.
func TestARefusedRequestIsNotInTheWayOfTheNext(t *testing.T) {
	onStage(t, map[string]int{"text": 1}, func(t *testing.T, s *stage) {
		codes := make(chan int, 2)
		for range 2 {
			go func() { codes <- s.post(openai.Chat, hello, "X-Neuronmill-Max-Wait", "30").Code }()
		}
		require.ElementsMatch(t, []int{200, 429}, []int{<-codes, <-codes})
		require.Equal(t, 200, s.post(openai.Chat, hello, "X-Neuronmill-Max-Wait", "90").Code)
		require.Len(t, s.emulator.Requests(), 2)
	})
}

func TestASpentAllocationEndsTheWaitAtOnce(t *testing.T) {
	onStage(t, nil, func(t *testing.T, s *stage) {
		s.emulator.Fault(workersaitest.Fault{Code: 3036})
		begun := time.Now()
		w := s.post(openai.Chat, hello)
		e := s.requireRefused(w, 429, "insufficient_quota")
		require.Less(t, time.Since(begun), 10*time.Second)
		require.Equal(t, "insufficient_quota", e.Type)
		require.Equal(t, "false", w.Header().Get("x-should-retry"), "the SDK would repeat it in vain")
		require.NotEmpty(t, w.Header().Get("retry-after-ms"))
	})
}

func TestARequestEndsAtItsLimitWhenTheModelStaysBusy(t *testing.T) {
	onStage(t, nil, func(t *testing.T, s *stage) {
		s.emulator.Fault(workersaitest.Fault{Code: 3040})
		begun := time.Now()
		w := s.post(openai.Chat, hello, "X-Neuronmill-Max-Wait", "20s")
		s.requireRefused(w, 429, "rate_limit_exceeded")
		require.Less(t, time.Since(begun), 40*time.Second)
		calls := len(s.emulator.Requests())
		time.Sleep(2 * time.Minute)
		require.Len(t, s.emulator.Requests(), calls, "no call follows the answer")
	})
}

func TestWithoutAWorkerARequestEndsWithTheReason(t *testing.T) {
	onStage(t, nil, func(t *testing.T, s *stage) {
		s.stopWorker()
		begun := time.Now()
		w := s.post(openai.Chat, hello, "X-Neuronmill-Max-Wait", "10s")
		require.Contains(t, s.requireRefused(w, 503, "unavailable").Message, "no worker runs")
		require.Less(t, time.Since(begun), 20*time.Second)
	})
}

func TestASilentRepetitionPaysOnce(t *testing.T) {
	onStage(t, nil, func(t *testing.T, s *stage) {
		s.emulator.Fault(workersaitest.Fault{Delay: 5 * time.Second})
		ctx, cut := context.WithTimeout(t.Context(), 2*time.Second)
		defer cut()
		s.serve(request(http.MethodPost, openai.Chat, hello).WithContext(ctx))
		require.Error(t, ctx.Err())
		w := s.post(openai.Chat, hello, "X-Stainless-Retry-Count", "1")
		require.Equal(t, 200, w.Code, w.Body.String())
		require.Equal(t, "true", w.Header().Get("idempotent-replayed"))
		require.Equal(t, 200, s.post(openai.Chat, hello, "X-Stainless-Retry-Count", "2").Code, "a response may have been lost too")
		require.Len(t, s.emulator.Requests(), 1)

		require.Equal(t, 200, s.post(openai.Chat, hello).Code, "another question in the same words")
		require.Len(t, s.emulator.Requests(), 2)
		time.Sleep(2 * time.Minute)
		require.Equal(t, 200, s.post(openai.Chat, hello, "X-Stainless-Retry-Count", "1").Code, "long after the answer")
		require.Len(t, s.emulator.Requests(), 3)
	})
}

func TestATaskWithoutAClientIsCancelledAfterAWhile(t *testing.T) {
	onStage(t, map[string]int{"text": 1}, func(t *testing.T, s *stage) {
		require.Equal(t, 200, s.post(openai.Chat, hello).Code)
		ctx, cut := context.WithTimeout(t.Context(), 2*time.Second)
		defer cut()
		s.serve(request(http.MethodPost, openai.Chat, hello, "X-Neuronmill-Max-Wait", "10m").WithContext(ctx))
		time.Sleep(2 * time.Minute)
		require.Len(t, s.emulator.Requests(), 1)
	})
}

func TestAnIdempotencyKeyGivesOneTask(t *testing.T) {
	onStage(t, nil, func(t *testing.T, s *stage) {
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() { s.post(openai.Chat, hello, "Idempotency-Key", "mine") })
		}
		all.Wait()
		time.Sleep(3 * time.Minute)
		require.Equal(t, 200, s.post(openai.Chat, hello, "Idempotency-Key", "mine").Code)
		require.Len(t, s.emulator.Requests(), 1)
		w := s.post(openai.Chat, streaming(hello), "Idempotency-Key", "mine")
		s.requireRefused(w, 409, "idempotency_mismatch")
		require.Equal(t, "false", w.Header().Get("x-should-retry"))
	})
}

func TestAStreamLivesWhileItWaits(t *testing.T) {
	onStage(t, nil, func(t *testing.T, s *stage) {
		s.emulator.Fault(workersaitest.Fault{Delay: 25 * time.Second})
		w := s.post(openai.Chat, streaming(hello))
		require.Equal(t, 200, w.Code)
		require.Equal(t, "text/event-stream; charset=utf-8", w.Header().Get("content-type"))
		events := strings.Split(strings.TrimSuffix(w.Body.String(), "\n\n"), "\n\n")
		require.Equal(t, []string{": waiting", ": waiting"}, events[:2])
		require.Equal(t, "data: [DONE]", events[len(events)-1])
		for _, e := range events[2 : len(events)-1] {
			data, ok := strings.CutPrefix(e, "data: ")
			require.True(t, ok)
			require.True(t, json.Valid([]byte(data)), data)
		}
	})
}

func TestAnErrorOfAStreamHasItsStatusWhileItCan(t *testing.T) {
	onStage(t, nil, func(t *testing.T, s *stage) {
		s.emulator.Fault(workersaitest.Fault{Contains: "soon", Code: 5021})
		s.emulator.Fault(workersaitest.Fault{Contains: "late", Code: 5021, Delay: 15 * time.Second})
		s.requireRefused(s.post(openai.Chat, streaming(strings.Replace(hello, "Hello", "soon", 1))), 400, "context_length_exceeded")
		w := s.post(openai.Chat, streaming(strings.Replace(hello, "Hello", "late", 1)))
		require.Equal(t, 200, w.Code)
		require.Contains(t, w.Body.String(), `data: {"error":{"code":"context_length_exceeded"`)
	})
}

// wav is a second of silence.
func wav() []byte {
	const rate = 8000
	b := []byte("RIFF\x00\x00\x00\x00WAVEfmt ")
	for _, n := range []any{uint32(16), uint16(1), uint16(1), uint32(rate), uint32(2 * rate), uint16(2), uint16(16)} {
		b, _ = binary.Append(b, binary.LittleEndian, n)
	}
	b = append(b, "data"...)
	b = binary.LittleEndian.AppendUint32(b, 2*rate)
	b = append(b, make([]byte, 2*rate)...)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)-8))
	return b
}

// form makes a multipart body; a field named file is a file.
func form(t *testing.T, fields ...string) (body, contentType string) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for i := 0; i < len(fields); i += 2 {
		create := w.CreateFormField
		if fields[i] == "file" {
			create = func(name string) (io.Writer, error) { return w.CreateFormFile(name, "Speech.WAV") }
		}
		part, err := create(fields[i])
		require.NoError(t, err)
		_, err = io.WriteString(part, fields[i+1])
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return b.String(), w.FormDataContentType()
}

// uploads counts the objects of uploads in the bucket.
func (s *stage) uploads() (n int) {
	for _, err := range s.store.List(s.t.Context(), "default/files/", "") {
		require.NoError(s.t, err)
		n++
	}
	return n
}

func TestSpeechIsTranscribedAndTheUploadDeleted(t *testing.T) {
	onStage(t, nil, func(t *testing.T, s *stage) {
		for format, says := range map[string]string{"": `{"text":"`, "verbose_json": `"segments":[{"id":0`, "vtt": "WEBVTT", "srt": "1\n00:00:00,000 --> ", "text": "\n"} {
			fields := []string{"response_format", format, "file", string(wav()), "model", "whisper-large-v3-turbo"}
			body, contentType := form(t, fields...)
			w := s.post(openai.Transcriptions, body, "Content-Type", contentType)
			require.Equal(t, 200, w.Code, w.Body.String())
			require.Contains(t, w.Body.String(), says)
		}
		require.Zero(t, s.uploads())
		for _, fields := range [][]string{
			{"model", "whisper"},
			{"model", "whisper", "file", ""},
			{"model", "nothing", "file", "sound"},
			{"model", "whisper", "file", "not sound"},
			{"model", "whisper", "file", string(wav()), "file", string(wav())},
			{"model", "whisper", "file", string(wav()), "language", "?"},
		} {
			body, contentType := form(t, fields...)
			w := s.post(openai.Transcriptions, body, "Content-Type", contentType)
			require.Contains(t, []int{400, 404}, w.Code, w.Body.String())
		}
		require.Zero(t, s.uploads())
	})
}

func TestARepeatedUploadPaysOnce(t *testing.T) {
	onStage(t, nil, func(t *testing.T, s *stage) {
		s.emulator.Fault(workersaitest.Fault{Delay: 5 * time.Second})
		body, contentType := form(t, "model", "whisper", "file", string(wav()))
		ctx, cut := context.WithTimeout(t.Context(), 2*time.Second)
		defer cut()
		s.serve(request(http.MethodPost, openai.Transcriptions, body, "Content-Type", contentType).WithContext(ctx))
		require.Equal(t, 1, s.uploads(), "the task still needs it")
		body, contentType = form(t, "model", "whisper", "file", string(wav()))
		w := s.post(openai.Transcriptions, body, "Content-Type", contentType, "X-Stainless-Retry-Count", "1")
		require.Equal(t, 200, w.Code, w.Body.String())
		require.Len(t, s.emulator.Requests(), 1)
		require.Zero(t, s.uploads())
	})
}

func TestAnAbandonedUploadIsDeleted(t *testing.T) {
	onStage(t, map[string]int{"transcription": 1}, func(t *testing.T, s *stage) {
		body, contentType := form(t, "model", "whisper", "file", string(wav()))
		require.Equal(t, 200, s.post(openai.Transcriptions, body, "Content-Type", contentType).Code)
		ctx, cut := context.WithTimeout(t.Context(), 2*time.Second)
		defer cut()
		s.serve(request(http.MethodPost, openai.Transcriptions, body, "Content-Type", contentType, "X-Neuronmill-Max-Wait", "10m").WithContext(ctx))
		time.Sleep(time.Minute)
		require.Zero(t, s.uploads())
		require.Len(t, s.emulator.Requests(), 1)
	})
}
