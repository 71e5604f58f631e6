// Command gosdk drives a running neuronmill with OpenAI's SDK for Go:
//
//	gosdk BASE_URL EMULATOR_URL
package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/param"
	"github.com/openai/openai-go/v3/shared"
)

const (
	text    = "@cf/zai-org/glm-4.7-flash"
	bge     = "@cf/baai/bge-base-en-v1.5"
	whisper = "@cf/openai/whisper-large-v3-turbo"
	limited = "@cf/qwen/qwen3-30b-a3b-fp8" // 12 a minute, see run
)

type checker struct {
	openai.Client
	emulator string
}

func main() {
	c := checker{openai.NewClient(option.WithAPIKey("any"), option.WithBaseURL(os.Args[1]), option.WithMaxRetries(0)), os.Args[2]}
	failed := false
	for _, check := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"models are listed and described", c.models},
		{"texts are embedded", c.embeddings},
		{"a chat is answered", c.chat},
		{"tools are called", c.tools},
		{"a chat is streamed", c.stream},
		{"an image comes as base64", c.image},
		{"speech is transcribed", c.speech},
		{"errors have their fields", c.errors},
		{"a limit is told at once, and its time is honoured", c.limit},
		{"silent repetitions pay once", c.repetitions},
		{"a batch goes from upload to output", c.batch},
		{"60 batches are listed page by page", c.batchPages},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		if err := check.run(ctx); err != nil {
			failed = true
			fmt.Printf("FAIL  openai-go: %s: %v\n", check.name, err)
		} else {
			fmt.Printf("ok    openai-go: %s\n", check.name)
		}
		cancel()
	}
	if failed {
		os.Exit(1)
	}
}

// want returns an error unless a condition holds.
func want(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

func question(content string) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{Model: text, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(content)}}
}

func (c checker) fault(fault map[string]any) error {
	body, err := json.Marshal(fault)
	if err != nil {
		return err
	}
	response, err := http.Post(c.emulator+"/_emulator/faults", "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	return response.Body.Close()
}

func (c checker) models(ctx context.Context) error {
	found := false
	pages := c.Models.ListAutoPaging(ctx)
	for pages.Next() {
		found = found || pages.Current().ID == bge
	}
	if pages.Err() != nil || !found {
		return fmt.Errorf("found %v, error %w", found, pages.Err())
	}
	m, err := c.Models.Get(ctx, bge)
	if err != nil {
		return err
	}
	return want(m.ID == bge, "got %s", m.ID)
}

func (c checker) embeddings(ctx context.Context) error {
	r, err := c.Embeddings.New(ctx, openai.EmbeddingNewParams{
		Model: bge, Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"one", "two"}},
	})
	if err != nil {
		return err
	}
	return want(len(r.Data) == 2 && len(r.Data[1].Embedding) == 768 && r.Usage.PromptTokens > 0, "got %d vectors", len(r.Data))
}

func (c checker) chat(ctx context.Context) error {
	r, err := c.Chat.Completions.New(ctx, question("Hello there"))
	if err != nil {
		return err
	}
	return want(strings.Contains(r.Choices[0].Message.Content, "Hello there") && r.Usage.TotalTokens > 0, "got %s", r.RawJSON())
}

func (c checker) tools(ctx context.Context) error {
	p := question("Weather in Rome?")
	p.Tools = []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{
		Name: "weather", Parameters: shared.FunctionParameters{"type": "object", "properties": map[string]any{"city": map[string]any{"type": "string"}}},
	})}
	r, err := c.Chat.Completions.New(ctx, p)
	if err != nil {
		return err
	}
	call := r.Choices[0].Message.ToolCalls
	if len(call) != 1 || call[0].Function.Name != "weather" || !json.Valid([]byte(call[0].Function.Arguments)) {
		return fmt.Errorf("got %s", r.RawJSON())
	}
	p.Tools = nil
	p.Messages = append(p.Messages, r.Choices[0].Message.ToParam(), openai.ToolMessage("sunny", call[0].ID))
	_, err = c.Chat.Completions.New(ctx, p)
	return err
}

func (c checker) stream(ctx context.Context) error {
	p := question("Hello stream")
	p.StreamOptions = openai.ChatCompletionStreamOptionsParam{IncludeUsage: param.NewOpt(true)}
	var whole openai.ChatCompletionAccumulator
	s := c.Chat.Completions.NewStreaming(ctx, p)
	for s.Next() {
		if !whole.AddChunk(s.Current()) {
			return errors.New("a chunk does not fit")
		}
	}
	if s.Err() != nil {
		return s.Err()
	}
	return want(strings.Contains(whole.Choices[0].Message.Content, "Hello stream") && whole.Usage.TotalTokens > 0, "got %+v", whole.Choices)
}

func (c checker) image(ctx context.Context) error {
	r, err := c.Images.Generate(ctx, openai.ImageGenerateParams{Model: "@cf/black-forest-labs/flux-1-schnell", Prompt: "a mill"})
	if err != nil {
		return err
	}
	picture, err := base64.StdEncoding.DecodeString(r.Data[0].B64JSON)
	if err != nil {
		return err
	}
	return want(len(picture) > 10, "got %d bytes", len(picture))
}

// sound is a second of silence as a WAV file.
func sound() []byte {
	const rate = 8000
	b := []byte("RIFF\x00\x00\x00\x00WAVEfmt ")
	for _, n := range []any{uint32(16), uint16(1), uint16(1), uint32(rate), uint32(2 * rate), uint16(2), uint16(16)} {
		b, _ = binary.Append(b, binary.LittleEndian, n)
	}
	b = binary.LittleEndian.AppendUint32(append(b, "data"...), 2*rate)
	b = append(b, make([]byte, 2*rate)...)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)-8))
	return b
}

func (c checker) speech(ctx context.Context) error {
	r, err := c.Audio.Transcriptions.New(ctx, openai.AudioTranscriptionNewParams{
		Model: whisper, File: openai.File(bytes.NewReader(sound()), "speech.wav", "audio/wav"),
	})
	if err != nil {
		return err
	}
	return want(r.JSON.Text.Valid(), "got %s", r.RawJSON())
}

func (c checker) errors(ctx context.Context) error {
	p := question("x")
	p.N = param.NewOpt[int64](2)
	_, err := c.Chat.Completions.New(ctx, p)
	if e, ok := errors.AsType[*openai.Error](err); !ok || e.StatusCode != 400 || e.Param != "n" {
		return fmt.Errorf("got %w", err)
	}
	p = question("x")
	p.Model = "gpt-4o"
	_, err = c.Chat.Completions.New(ctx, p)
	e, ok := errors.AsType[*openai.Error](err)
	return want(ok && e.StatusCode == 404 && e.Code == "model_not_found", "got %v", err)
}

func (c checker) limit(ctx context.Context) error {
	p := question("limited")
	p.Model = limited
	if _, err := c.Chat.Completions.New(ctx, p); err != nil {
		return err
	}
	short, begun := option.WithHeader("X-Neuronmill-Max-Wait", "0.2"), time.Now()
	_, err := c.Chat.Completions.New(ctx, p, short)
	if e, ok := errors.AsType[*openai.Error](err); !ok || e.StatusCode != 429 || e.Response.Header.Get("Retry-After-Ms") == "" {
		return fmt.Errorf("got %w", err)
	}
	if time.Since(begun) > time.Second {
		return errors.New("it was not refused at once")
	}
	if _, err = c.Chat.Completions.New(ctx, p, short, option.WithMaxRetries(2)); err != nil {
		return err
	}
	return want(time.Since(begun) > 3*time.Second, "the SDK did not wait as told: %s", time.Since(begun))
}

func (c checker) repetitions(ctx context.Context) error {
	if err := c.fault(map[string]any{"Contains": "slow-go", "Delay": 3 * time.Second}); err != nil {
		return err
	}
	impatient := &http.Client{Transport: &http.Transport{ResponseHeaderTimeout: 1200 * time.Millisecond}}
	_, err := c.Chat.Completions.New(ctx, question("slow-go"), option.WithHTTPClient(impatient), option.WithMaxRetries(5))
	if err != nil {
		return err
	}
	response, err := http.Get(c.emulator + "/_emulator/requests")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	n := 0
	for log := json.NewDecoder(response.Body); log.More(); {
		var call struct{ Body []byte }
		if err := log.Decode(&call); err != nil {
			return err
		}
		if bytes.Contains(call.Body, []byte("slow-go")) {
			n++
		}
	}
	return want(n == 1, "%d calls", n)
}

func (c checker) newBatch(ctx context.Context, lines string) (*openai.Batch, error) {
	file, err := c.Files.New(ctx, openai.FileNewParams{
		File: openai.File(strings.NewReader(lines), "rows.jsonl", "application/jsonl"), Purpose: openai.FilePurposeBatch,
		ExpiresAfter: openai.FileNewParamsExpiresAfter{Seconds: 3600},
	})
	if err != nil {
		return nil, err
	}
	return c.Batches.New(ctx, openai.BatchNewParams{
		InputFileID: file.ID, Endpoint: openai.BatchNewParamsEndpointV1Embeddings, CompletionWindow: openai.BatchNewParamsCompletionWindow24h,
	})
}

const batchLine = `{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{"model":"` + bge + `","input":"one"}}`

func (c checker) batch(ctx context.Context) error {
	b, err := c.newBatch(ctx, batchLine)
	for err == nil && b.Status != openai.BatchStatusCompleted && b.Status != openai.BatchStatusFailed {
		time.Sleep(300 * time.Millisecond)
		b, err = c.Batches.Get(ctx, b.ID)
	}
	if err != nil {
		return err
	}
	if b.OutputFileID == "" || b.RequestCounts.Completed != 1 {
		return fmt.Errorf("the batch is %s", b.RawJSON())
	}
	response, err := c.Files.Content(ctx, b.OutputFileID)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var line struct {
		CustomID string `json:"custom_id"`
		Response struct {
			StatusCode int `json:"status_code"`
			Body       openai.CreateEmbeddingResponse
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&line); err != nil {
		return err
	}
	if line.CustomID != "a" || len(line.Response.Body.Data) != 1 || len(line.Response.Body.Data[0].Embedding) != 768 {
		return fmt.Errorf("the line is of %q with %d vectors", line.CustomID, len(line.Response.Body.Data))
	}
	deleted, err := c.Files.Delete(ctx, b.OutputFileID)
	if err != nil {
		return err
	}
	return want(deleted.Deleted, "it is not deleted")
}

func (c checker) batchPages(ctx context.Context) error {
	var made []string
	for range 60 {
		b, err := c.newBatch(ctx, batchLine)
		if err != nil {
			return err
		}
		made = append([]string{b.ID}, made...)
	}
	if b, err := c.Batches.Cancel(ctx, made[0]); err == nil && b.Status == openai.BatchStatusInProgress {
		return fmt.Errorf("the cancelled batch is %s", b.Status)
	}
	n := 0
	pages := c.Batches.ListAutoPaging(ctx, openai.BatchListParams{})
	for n < len(made) && pages.Next() {
		if pages.Current().ID != made[n] {
			return fmt.Errorf("batch %d is %s, not %s", n, pages.Current().ID, made[n])
		}
		n++
	}
	return errors.Join(pages.Err(), want(n == len(made), "%d batches", n))
}
