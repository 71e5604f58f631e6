package openai_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/openai"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files anew")

// requireGolden compares with a file below testdata. -update writes the file.
func requireGolden(t *testing.T, name string, got []byte) {
	t.Helper()
	if filepath.Ext(name) == ".json" {
		var pretty bytes.Buffer
		require.NoError(t, json.Indent(&pretty, got, "", "  "))
		got = append(pretty.Bytes(), '\n')
	}
	file := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(file, got, 0o600))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
}

const vtt = "WEBVTT\n\n00:00.000 --> 00:01.500 align:start\nHello there.\n\nnote\n00:00:01.500 --> 00:00:03.000\nHow are you?\n"

// bucket holds the artefacts of the results below.
func bucket(key string) (io.ReadCloser, error) {
	switch key {
	case "default/tasks/t_1/image.png":
		return io.NopCloser(strings.NewReader("\x89PNG")), nil
	case "default/tasks/t_1/transcript.vtt":
		return io.NopCloser(strings.NewReader(vtt)), nil
	}
	return nil, errors.New("no such object")
}

func completed(r *openai.Request, output string, neurons float64) *tasks.Result {
	return &tasks.Result{
		ID: "t_1", Kind: r.Kind(), Status: tasks.Completed, Model: r.Model, Output: json.RawMessage(output),
		Artefacts: []tasks.Artefact{{Key: "default/tasks/t_1/transcript.txt"}, {Key: "default/tasks/t_1/transcript.vtt"}},
		Usage:     tasks.Usage{Neurons: neurons, Calls: 1}, FinishedAt: time.Unix(1790000000, 0),
	}
}

const (
	vectors    = `{"dimensions":3,"vectors":[[0.10000000000000001,-0.2,1e-7],[1,2,3]]}`
	spoken     = `{"text":"Hello there. How are you?","language":"en","duration_s":3,"segments":[{"start":0,"end":1.5,"text":"Hello there."},{"start":1.5,"end":3,"text":"How are you?"}],"words":[{"word":"Hello","start":0,"end":0.4}]}`
	said       = `{"text":"Hello","reasoning":"hm","finish_reason":"stop","input_tokens":11,"output_tokens":2}`
	calledTool = `{"text":"","tool_calls":[{"id":"c1","name":"weather","arguments":{"city":"Rome"}},{"id":"c2","name":"weather","arguments":"not json"}],"finish_reason":"stop"}`
)

var (
	chatBody  = `{"model":"glm-4.7-flash","messages":[{"role":"user","content":"hi"}],"stream":true,"stream_options":{"include_usage":true}}`
	audioBody = func(format string) string {
		return `{"model":"whisper-large-v3-turbo","file":"f","response_format":"` + format + `","timestamp_granularities":["word"]}`
	}
)

func TestResultsBecomeResponses(t *testing.T) {
	cases := []struct {
		golden, endpoint, body, output string
		neurons                        float64
	}{
		{"embeddings.json", openai.Embeddings, `{"model":"bge-m3","input":["a","b"]}`, vectors, 0.01075},
		{"chat.json", openai.Chat, chatBody, said, 1},
		{"chat-tools.json", openai.Chat, chatBody, calledTool, 1},
		{"chat-one-tool.json", openai.Chat, `{"model":"glm-4.7-flash","messages":[{"role":"user","content":"hi"}],"parallel_tool_calls":false}`, calledTool, 1},
		{"chat-refusal.json", openai.Chat, chatBody, `{"text":"","refusal":"I will not.","finish_reason":"content_filter"}`, 1},
		{"chat-length.json", openai.Chat, chatBody, `{"text":"Hel","finish_reason":"length"}`, 1},
		{"response.json", openai.Responses, `{"model":"glm-4.7-flash","input":"hi"}`, said, 1},
		{"response-tools.json", openai.Responses, `{"model":"glm-4.7-flash","input":"hi"}`, calledTool, 1},
		{"response-length.json", openai.Responses, `{"model":"glm-4.7-flash","input":"hi"}`, `{"text":"Hel","finish_reason":"length"}`, 1},
		{"response-refusal.json", openai.Responses, `{"model":"glm-4.7-flash","input":"hi","parallel_tool_calls":false}`, `{"text":"","refusal":"I will not.","finish_reason":"stop"}`, 1},
		{"image.json", openai.Images, `{"model":"flux-1-schnell","prompt":"a"}`, `{"image":"default/tasks/t_1/image.png","content_type":"image/png"}`, 1},
		{"image-size.json", openai.Images, `{"model":"phoenix-1.0","prompt":"a","size":"512x768"}`, `{"image":"default/tasks/t_1/image.png","content_type":"image/png","width":512,"height":768}`, 1},
		{"speech.json", openai.Transcriptions, audioBody("json"), spoken, 1},
		{"speech-verbose.json", openai.Transcriptions, audioBody("verbose_json"), spoken, 1},
		{"speech-translated.json", openai.Translations, audioBody("verbose_json"), `{"text":"Hello"}`, 1},
		{"speech.txt", openai.Transcriptions, audioBody("text"), spoken, 1},
		{"speech.vtt", openai.Transcriptions, audioBody("vtt"), spoken, 1},
		{"speech.srt", openai.Transcriptions, audioBody("srt"), spoken, 1},
	}
	for _, c := range cases {
		t.Run(c.golden, func(t *testing.T) {
			r, err := openai.Parse(c.endpoint, []byte(c.body))
			require.NoError(t, err)
			got, err := r.Response(completed(r, c.output, c.neurons), bucket)
			require.NoError(t, err)
			require.Equal(t, 200, got.Status)
			requireGolden(t, c.golden, got.Body)
		})
	}
}

func TestNumbersOfVectorsAreCopiedAsTheyStand(t *testing.T) {
	r, err := openai.Parse(openai.Embeddings, []byte(`{"model":"bge-m3","input":["a","b"]}`))
	require.NoError(t, err)
	got, err := r.Response(completed(r, vectors, 0), bucket)
	require.NoError(t, err)
	require.Contains(t, string(got.Body), "[0.10000000000000001,-0.2,1e-7]")
}

func TestBase64VectorsHoldTheSameNumbers(t *testing.T) {
	r, err := openai.Parse(openai.Embeddings, []byte(`{"model":"bge-m3","input":["a","b"],"encoding_format":"base64"}`))
	require.NoError(t, err)
	got, err := r.Response(completed(r, vectors, 0), bucket)
	require.NoError(t, err)
	var body struct {
		Data []struct {
			Index     int
			Embedding string
		}
	}
	require.NoError(t, json.Unmarshal(got.Body, &body))
	require.Len(t, body.Data, 2)
	for i, want := range [][]float32{{0.1, -0.2, 1e-7}, {1, 2, 3}} {
		packed, err := base64.StdEncoding.DecodeString(body.Data[i].Embedding)
		require.NoError(t, err)
		require.Equal(t, i, body.Data[i].Index)
		require.Len(t, packed, 12)
		for j := range want {
			require.Equal(t, math.Float32bits(want[j]), binary.LittleEndian.Uint32(packed[4*j:]))
		}
	}
}

func TestAnAnswerIsCutIntoChunks(t *testing.T) {
	for golden, output := range map[string]string{"chunks.txt": said, "chunks-tools.txt": calledTool} {
		r, err := openai.Parse(openai.Chat, []byte(chatBody))
		require.NoError(t, err)
		require.True(t, r.Stream)
		chunks, err := r.Chunks(completed(r, output, 1))
		require.NoError(t, err)
		requireGolden(t, golden, append(bytes.Join(chunks, []byte("\n")), '\n'))
	}
}

func TestEveryCodeOfAFailedTaskHasAForm(t *testing.T) {
	r, err := openai.Parse(openai.Chat, []byte(chatBody))
	require.NoError(t, err)
	var lines strings.Builder
	for _, c := range tasks.Codes {
		if c.OfCall {
			continue
		}
		result := &tasks.Result{ID: "t_1", Status: tasks.Failed, Error: &tasks.TaskError{Code: c.Code, Message: "why"}}
		got, err := r.Response(result, bucket)
		require.NoError(t, err)
		if c.Code != tasks.CodeInternalError {
			require.NotContains(t, string(got.Body), "internal_error", c.Code)
		}
		retry := "may repeat"
		if got.Error.Final || got.Status < 409 {
			retry = "final"
		}
		lines.WriteString(c.Code + " " + strconv.Itoa(got.Status) + " " + retry + " " + string(got.Body) + "\n")
	}
	requireGolden(t, "failures.txt", []byte(lines.String()))
}

func TestModelsAreListedWithoutWithdrawnOnes(t *testing.T) {
	list, err := openai.Models()
	require.NoError(t, err)
	require.Contains(t, string(list), `"id":"@cf/baai/bge-m3"`)
	require.NotContains(t, string(list), "kimi-k2.5")
	one, err := openai.Model("@cf/baai/bge-m3")
	require.NoError(t, err)
	requireGolden(t, "model.json", one)
	for _, name := range []string{"gpt-secret", "@cf/moonshotai/kimi-k2.5", "@cf/myshell-ai/melotts", ""} {
		_, err = openai.Model(name)
		refused, ok := errors.AsType[*openai.Error](err)
		require.True(t, ok)
		require.Equal(t, 404, refused.Status)
	}
}
