package engine_test

import (
	"bytes"
	"encoding/json"
	"image"
	_ "image/jpeg"
	_ "image/png"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hibiken/asynq"
	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/internal/taskstate"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// bubble runs a story in synthetic time with a worker of some kinds, or of all kinds when
// none is named. Each kind's queues are polled many times per synthetic second.
func bubble(t *testing.T, story func(t *testing.T, r *rig), kinds ...tasks.Kind) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.cfg.Kinds = kinds
		r.work()
		defer func() { r.stop() }()
		story(t, r)
	})
}

func TestEveryKindEndsInItsResultAndArtefacts(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		audio := r.put("default/files/f1/call.wav", string(workersaitest.SampleWAV()))
		transcription := r.enqueue(tasks.Transcription{Audio: tasks.Audio{Key: audio}})
		picture := r.enqueue(tasks.Image{Prompt: "a mill by a river"})
		translation := r.enqueue(tasks.Translation{Text: "hello world", TargetLang: "es"})
		embedding := r.enqueue(tasks.Embedding{Texts: []string{"red apples", "green apples"}}, tasks.WithLane(tasks.Bulk))
		text := r.enqueue(tasks.Text{Prompt: "say hello"}, tasks.WithMetadata(map[string]string{"order": "7"}))

		heard := output[tasks.TranscriptionOutput](t, r.wait(transcription))
		require.NotEmpty(t, heard.Text)
		require.Contains(t, string(r.read("default/tasks/"+transcription+"/transcript.txt")), heard.Text)
		require.True(t, strings.HasPrefix(string(r.read("default/tasks/"+transcription+"/transcript.vtt")), "WEBVTT"))

		drawn := r.wait(picture)
		out := output[tasks.ImageOutput](t, drawn)
		require.Len(t, drawn.Artefacts, 1)
		require.Equal(t, out.Image, drawn.Artefacts[0].Key)
		body := r.read(out.Image)
		require.Equal(t, drawn.Artefacts[0].Bytes, int64(len(body)))
		config, _, err := image.DecodeConfig(bytes.NewReader(body))
		require.NoError(t, err)
		require.Equal(t, [2]int{out.Width, out.Height}, [2]int{config.Width, config.Height})

		require.NotEmpty(t, output[tasks.TranslationOutput](t, r.wait(translation)).TranslatedText)

		vectors := output[tasks.EmbeddingOutput](t, r.wait(embedding))
		require.Equal(t, 768, vectors.Dimensions)
		require.Len(t, vectors.Vectors, 2)

		said := r.wait(text)
		require.NotEmpty(t, output[tasks.TextOutput](t, said).Text)
		require.Equal(t, map[string]string{"order": "7"}, said.Metadata)
		require.Equal(t, 1, said.Attempts)
		require.Equal(t, 1, said.Usage.Calls)
		require.Positive(t, said.Usage.Neurons)

		r.stop()
		require.Empty(t, r.keys("default/pending/"), "nothing is pending once all have ended")
	})
}

func TestAThousandTextsAreCutIntoCallsAndPutTogetherInOrder(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		texts := make([]string, 250)
		for i := range texts {
			texts[i] = strings.Repeat("word ", i%7+1)
		}
		id := r.enqueue(tasks.Embedding{Texts: texts})
		single := r.enqueue(tasks.Embedding{Texts: texts[3:4]})
		result := r.wait(id)
		require.Equal(t, 3, result.Usage.Calls)
		require.Equal(t, 1, result.Attempts)
		all := output[tasks.EmbeddingOutput](t, result)
		require.Len(t, all.Vectors, 250)
		require.Equal(t, all.Vectors[3], output[tasks.EmbeddingOutput](t, r.wait(single)).Vectors[0])
		require.Equal(t, all.Vectors[3], all.Vectors[241])
	})
}

func TestAToolCallComesWithItsArgumentsAsAnObject(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		tool := json.RawMessage(`[{"type":"function","function":{"name":"weather","description":"look up the weather",
			"parameters":{"type":"object","properties":{"city":{"type":"string","description":"city"}},"required":["city"]}}}]`)
		for _, model := range []string{"@cf/zai-org/glm-4.7-flash", "@cf/meta/llama-3.3-70b-instruct-fp8-fast", "@cf/meta/llama-4-scout-17b-16e-instruct"} {
			payload, err := tasks.Parse(tasks.KindText, []byte(`{"prompt":"weather in Lisbon?","tools":`+string(tool)+`}`))
			require.NoError(t, err)
			out := output[tasks.TextOutput](t, r.wait(r.enqueue(payload, tasks.WithModel(model))))
			require.Len(t, out.ToolCalls, 1, model)
			require.Equal(t, "weather", out.ToolCalls[0].Name)
			var arguments map[string]string
			require.NoError(t, json.Unmarshal(out.ToolCalls[0].Arguments, &arguments), model)
			require.Contains(t, arguments, "city")
		}
	})
}

func TestARefusedRequestFailsAtOnceWithADocument(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.ai.Fault(workersaitest.Fault{Kind: "text", Code: 5006})
		result := r.wait(r.enqueue(tasks.Text{Prompt: "hi"}))
		require.Equal(t, tasks.Failed, result.Status)
		require.Equal(t, tasks.CodeRequestRefused, result.Error.Code)
		require.Equal(t, 1, result.Attempts)
		require.Contains(t, r.keys("default/tasks/"), "default/tasks/"+result.ID+"/task.json")
	})
}

func TestATransientAnswerIsTriedAgainAndCounted(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.ai.Fault(workersaitest.Fault{Kind: "text", From: 1, To: 2, Status: http.StatusBadGateway, Body: "<html>bad gateway</html>"})
		result := r.wait(r.enqueue(tasks.Text{Prompt: "hi"}))
		require.Equal(t, tasks.Completed, result.Status)
		require.Equal(t, 3, result.Attempts)
		require.Equal(t, 3, result.Usage.Calls)
	}, tasks.KindText)
}

func TestAttemptsRunOut(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.ai.Fault(workersaitest.Fault{Kind: "text", Status: http.StatusInternalServerError, Body: "oops"})
		spec, _ := tasks.SpecOf(tasks.KindText)
		result := r.wait(r.enqueue(tasks.Text{Prompt: "hi"}))
		require.Equal(t, tasks.Failed, result.Status)
		require.Equal(t, tasks.CodeAttemptsExhausted, result.Error.Code)
		require.Equal(t, spec.Attempts, result.Attempts)
		require.Len(t, r.calls("@cf/zai-org/glm-4.7-flash"), spec.Attempts)
	}, tasks.KindText)
}

func TestAThrottledTaskKeepsItsAttemptsAndClosesTheGate(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.ai.Fault(workersaitest.Fault{Kind: "translation", From: 1, To: 1, Code: 3021, Header: http.Header{"Retry-After": {"30"}}})
		start := time.Now()
		first := r.enqueue(tasks.Translation{Text: "one", TargetLang: "de"})
		result := r.wait(first)
		require.Equal(t, tasks.Completed, result.Status)
		require.Equal(t, 1, result.Attempts, "the refused one is given back")
		require.Equal(t, 2, result.Usage.Calls)
		calls := r.calls(result.Model)
		require.Len(t, calls, 2)
		require.GreaterOrEqual(t, calls[1].At.Sub(start), 30*time.Second, "nothing is sent while the gate is closed")
	}, tasks.KindTranslation)
}

func TestASpentQuotaStopsEveryModelUntilMidnight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.cfg.Kinds = []tasks.Kind{tasks.KindText, tasks.KindTranslation}
		time.Sleep(23*time.Hour + 58*time.Minute) // the bubble's clock begins at midnight
		r.work()
		defer func() { r.stop() }()
		r.ai.Fault(workersaitest.Fault{Kind: "text", From: 1, To: 1, Code: 4006})
		text := r.enqueue(tasks.Text{Prompt: "hi"})
		synctest.Wait()
		time.Sleep(5 * time.Second) // synthetic time, long enough for the refusal
		translation := r.enqueue(tasks.Translation{Text: "one", TargetLang: "de"})
		midnight := time.Now().UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)
		require.Equal(t, tasks.Completed, r.wait(text).Status)
		require.Equal(t, tasks.Completed, r.wait(translation).Status)
		for _, q := range r.ai.Requests()[1:] {
			require.False(t, q.At.Before(midnight), "%s was asked before midnight", q.Model)
		}
	})
}

func TestATaskPastItsDeadlineEndsWithoutACall(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.ai.Fault(workersaitest.Fault{Kind: "text", From: 1, To: 1, Code: 3021, Header: http.Header{"Retry-After": {"60"}}})
		first := r.enqueue(tasks.Text{Prompt: "hi"})
		time.Sleep(5 * time.Second)
		late := r.wait(r.enqueue(tasks.Text{Prompt: "too late"}, tasks.WithTimeToLive(20*time.Second)))
		require.Equal(t, tasks.CodeDeadlineExceeded, late.Error.Code)
		require.Zero(t, late.Usage.Calls)
		require.Nil(t, late.StartedAt)
		require.Equal(t, tasks.Completed, r.wait(first).Status)
	}, tasks.KindText)
}

func TestAnUndecodablePayloadEndsAsFailed(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		queue := asynq.NewClientFromRedisClient(r.redis)
		_, err := queue.EnqueueContext(t.Context(), asynq.NewTask("text", []byte("\xff{nonsense")),
			asynq.TaskID("t_broken"), asynq.Queue("text:interactive"), asynq.MaxRetry(100))
		require.NoError(t, err)
		result := r.wait("t_broken")
		require.Equal(t, tasks.Failed, result.Status)
		require.Equal(t, tasks.CodePayloadInvalid, result.Error.Code)
		require.Empty(t, r.ai.Requests())
	})
}

func TestATaskThatHasAResultIsNotPaidAgain(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.enqueue(tasks.Text{Prompt: "hi"}, tasks.WithIdempotencyKey("once"))
		first := r.wait(id)
		task := tasks.Task{Version: 1, ID: id, Tenant: "default", Kind: tasks.KindText, Lane: tasks.Interactive,
			Model: first.Model, Payload: json.RawMessage(`{"prompt":"hi"}`), CreatedAt: first.CreatedAt, Deadline: time.Now().Add(time.Hour)}
		time.Sleep(5 * time.Second)
		require.NoError(t, r.redis.Del(t.Context(), taskstate.LiveKey(id)).Err()) // Redis lost the record
		require.NoError(t, r.client.Requeue(t.Context(), task))
		time.Sleep(5 * time.Second)
		require.Len(t, r.calls(first.Model), 1)
	}, tasks.KindText)
}

func TestAPendingRecordThatTheQueueLostRunsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.cfg.Kinds = []tasks.Kind{tasks.KindText}
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		require.NoError(t, r.redis.FlushAll(t.Context()).Err())
		time.Sleep(2 * time.Minute)
		r.work()
		defer func() { r.stop() }()
		require.Equal(t, tasks.Completed, r.wait(id).Status)
	})
}

func TestATaskOfADeadWorkerComesBackWithinFortySeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.cfg.Kinds = []tasks.Kind{tasks.KindText}
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		// The state left by a worker that died just after it claimed the task.
		queue, at := "asynq:{text:interactive}:", t.Context()
		require.NoError(t, r.redis.LMove(at, queue+"pending", queue+"active", "RIGHT", "LEFT").Err())
		require.NoError(t, r.redis.HSet(at, queue+"t:"+id, "state", "active").Err())
		start := time.Now()
		z := redisZ(start.Add(30*time.Second), id)
		require.NoError(t, r.redis.ZAdd(at, queue+"lease", z).Err())
		r.work()
		defer func() { r.stop() }()
		require.Equal(t, tasks.Completed, r.wait(id).Status)
		require.Less(t, time.Since(start), 41*time.Second)
	})
}

func TestABucketThatIsAwayForAWhileCostsNoSecondCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.cfg.Kinds = []tasks.Kind{tasks.KindImage}
		flaky := &away{Store: r.store, until: time.Now().Add(45 * time.Second)}
		r.cfg.Store = flaky
		r.work()
		defer func() { r.stop() }()
		result := r.wait(r.enqueue(tasks.Image{Prompt: "a mill"}))
		require.Equal(t, tasks.Completed, result.Status)
		require.Len(t, r.calls(result.Model), 1)
	})
}

func TestTheGateIsAskedBeforeEveryCall(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		model := "@cf/deepseek-ai/deepseek-v4-flash-0731"
		row, _ := catalogue.Find(model)
		require.Equal(t, 20, row.PerMinute)
		var ids []string
		for range 30 {
			ids = append(ids, r.enqueue(tasks.Text{Prompt: "hi"}, tasks.WithModel(model)))
		}
		for _, id := range ids {
			require.Equal(t, tasks.Completed, r.wait(id).Status)
		}
		for _, q := range r.calls(model) {
			require.Equal(t, http.StatusOK, q.Status, "the emulator met more than the limit")
		}
	}, tasks.KindText)
}

func TestAFailedTaskRunsAgainAsANewOne(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		r.ai.Fault(workersaitest.Fault{Kind: "text", From: 1, To: 1, Code: 5006})
		id := r.enqueue(tasks.Text{Prompt: "hi"}, tasks.WithMetadata(map[string]string{"a": "b"}))
		require.Equal(t, tasks.Failed, r.wait(id).Status)
		accepted, err := r.client.Retry(t.Context(), id)
		require.NoError(t, err)
		require.NotEqual(t, id, accepted.ID)
		again := r.wait(accepted.ID)
		require.Equal(t, tasks.Completed, again.Status)
		require.Equal(t, map[string]string{"a": "b", "retry_of": id}, again.Metadata)
		require.Equal(t, tasks.Failed, r.wait(id).Status, "the first result stands")
		_, err = r.client.Retry(t.Context(), accepted.ID)
		require.ErrorContains(t, err, "completed")
	})
}

func TestACancelledTaskEndsWithoutACall(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		id := r.enqueue(tasks.Text{Prompt: "hi"}, tasks.WithDelay(time.Hour))
		require.NoError(t, r.client.Cancel(t.Context(), id))
		result := r.wait(id)
		require.Equal(t, tasks.CodeCancelled, result.Error.Code)
		require.Empty(t, r.ai.Requests())
		require.ErrorIs(t, r.client.Cancel(t.Context(), id), tasks.ErrEnded)
	})
}

func TestAudioThatIsNoneOrMissingFailsBeforeItIsPaid(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		words := r.put("default/files/a", "these are words")
		empty := r.put("default/files/b", "")
		for key, code := range map[string]string{words: "unsupported_media", empty: "unsupported_media", "default/files/none": "input_not_found"} {
			result := r.wait(r.enqueue(tasks.Transcription{Audio: tasks.Audio{Key: key}}))
			require.Equal(t, code, result.Error.Code, key)
		}
		require.Empty(t, r.ai.Requests())
	})
}

func TestARunningCallOutlivesTheStopOfItsWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.cfg.Kinds = []tasks.Kind{tasks.KindText}
		r.ai.Fault(workersaitest.Fault{Kind: "text", Delay: 90 * time.Second})
		r.work()
		id := r.enqueue(tasks.Text{Prompt: "hi"})
		time.Sleep(5 * time.Second)
		r.stop() // waits for the call and its result
		require.Equal(t, tasks.Completed, r.wait(id).Status)
		require.Len(t, r.ai.Requests(), 1)
		require.Zero(t, r.redis.Exists(t.Context(), "asynq:{text:interactive}:t:"+id).Val(), "it is acknowledged")
	})
}
