// Package handlers does the work of each kind: a payload becomes a request, and the answer
// an output. Package engine runs the handlers.
package handlers

import (
	"net/http"

	"github.com/neuronmill/neuronmill/internal/engine"
	"github.com/neuronmill/neuronmill/internal/fetch"
	"github.com/neuronmill/neuronmill/internal/media"
	"github.com/neuronmill/neuronmill/tasks"
)

// embeddingSlots is the number of embeddings that run at once for each call: many of them
// share one.
const embeddingSlots = 16

// All returns the handlers of all kinds. A new kind adds its row here. download is for
// audio at a URL; nil means a client that only connects to public addresses.
func All(download *http.Client) []engine.Handler {
	recordings := audio{fetch.New(download, fetch.Limits{Bytes: media.AudioLimit})}
	always := func(tasks.Task) bool { return true }
	oneText := func(t tasks.Task) bool { return !takesLists(t.Model) }
	return []engine.Handler{
		{Kind: tasks.KindTranscription, Run: engine.HandlerOf(recordings.transcription), Checkpoint: true, Scratch: copies},
		{Kind: tasks.KindImage, Run: engine.HandlerOf(image), Checkpoint: true},
		{Kind: tasks.KindTranslation, Run: engine.HandlerOf(translation), SingleCall: oneText},
		{Kind: tasks.KindEmbedding, Run: engine.HandlerOf(embedding), Slots: embeddingSlots},
		{Kind: tasks.KindText, Run: engine.HandlerOf(text), SingleCall: always},
	}
}
