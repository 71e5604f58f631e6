package tasks

import "context"

// PayloadFor is a payload whose task has an output of type O: [Translation], for example,
// is a PayloadFor[TranslationOutput]. The payload types of this package and pointers to
// them implement it.
type PayloadFor[O any] interface {
	Payload
	output() O // names the output type and is never called
}

func (Transcription) output() (o TranscriptionOutput) { return o }
func (Image) output() (o ImageOutput)                 { return o }
func (Translation) output() (o TranslationOutput)     { return o }
func (Embedding) output() (o EmbeddingOutput)         { return o }
func (Text) output() (o TextOutput)                   { return o }

// Do enqueues a task, waits until it has ended and returns its output. The output type
// follows from the payload:
//
//	out, err := tasks.Do(ctx, client, tasks.Translation{Text: "Good morning", TargetLang: "es"})
//
// The error of a failed task is its [*TaskError]. All other errors are those of
// [Client.Enqueue] and [Client.Wait]. The task still runs when ctx ends during the wait.
// With [WithIdempotencyKey], a repeated call waits for the same task and costs nothing
// more; without it each call pays for a task of its own.
func Do[O any](ctx context.Context, c *Client, p PayloadFor[O], opts ...Option) (O, error) {
	var none O
	receipt, err := c.Enqueue(ctx, p, opts...)
	if err != nil {
		return none, err
	}
	result, err := c.Wait(ctx, receipt.ID)
	if err != nil {
		return none, err
	}
	return OutputOf[O](result)
}
