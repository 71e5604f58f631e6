package main

import "github.com/neuronmill/neuronmill/tasks"

// kinds has one subcommand per kind, with its payload fields as flags. C has the flags of
// the command, A those for kinds whose results have files, T those for text.
type kinds[C, A, T action] struct {
	Transcription kindCmd[transcriptionInput, A] `cmd:"" help:"Turn speech into text. INPUT is an audio file or an https URL."`
	Image         kindCmd[imageInput, A]         `cmd:"" help:"Draw a picture. INPUT is the prompt."`
	Translation   kindCmd[translationInput, C]   `cmd:"" help:"Translate. INPUT is the text; --target-lang says into what."`
	Embedding     kindCmd[embeddingInput, C]     `cmd:"" help:"Turn text into a vector. INPUT is the text."`
	Text          kindCmd[textInput, T]          `cmd:"" help:"Generate text. INPUT is the prompt."`
}

// derive makes the flags of all kinds, before the command line is parsed.
func (k *kinds[C, A, T]) derive() {
	k.Transcription.derive()
	k.Image.derive()
	k.Translation.derive()
	k.Embedding.derive()
	k.Text.derive()
}

// kindInput is how the command line reads the tasks of one kind. Its fields are flags
// beyond those of the payload.
type kindInput interface {
	// zero returns a payload of the kind, for its type.
	zero() tasks.Payload
	// fill returns the payload's fields for one input; field is the kind's main field.
	fill(field, input string) map[string]any
	// whole is the payload field that replaces INPUT; empty for none.
	whole() string
	// tags returns further tags of payload fields for kong, by JSON name.
	tags() map[string]string
	// examples returns arguments for both "neuronmill run KIND" and "neuronmill enqueue
	// KIND".
	examples() []string
	// examplesOf returns whole command lines for only one of the two commands.
	examplesOf(verb string) []string
}

// plainInput has the methods of a kind whose INPUT is its main field, a text.
type plainInput struct{}

func (plainInput) fill(field, input string) map[string]any { return map[string]any{field: input} }
func (plainInput) whole() string                           { return "" }
func (plainInput) tags() map[string]string                 { return nil }
func (plainInput) examplesOf(string) []string              { return nil }

type transcriptionInput struct{ plainInput }

func (transcriptionInput) zero() tasks.Payload { return tasks.Transcription{} }

func (transcriptionInput) fill(field, input string) map[string]any {
	source := "path"
	if isURL(input) {
		source = "url"
	}
	return map[string]any{field: map[string]string{source: input}}
}

func (transcriptionInput) examples() []string {
	return []string{
		`call.mp3`,
		`https://example.org/talk.mp3 --language de`,
		`a.wav b.wav --metadata project=archive`,
	}
}

func (transcriptionInput) examplesOf(verb string) []string {
	if verb != "run" {
		return nil
	}
	return []string{`neuronmill run transcription talk.mp3 -o talk.vtt`}
}

type imageInput struct{ plainInput }

func (imageInput) zero() tasks.Payload { return tasks.Image{} }

func (imageInput) examples() []string {
	return []string{
		`"a mill by a river"`,
		`"a mill" --model phoenix-1.0 --width 512 --seed 7`,
	}
}

func (imageInput) examplesOf(verb string) []string {
	if verb != "run" {
		return nil
	}
	return []string{`neuronmill run image "a mill by a river" -o mill.jpg`}
}

type translationInput struct{ plainInput }

func (translationInput) zero() tasks.Payload { return tasks.Translation{} }

func (translationInput) examples() []string {
	return []string{
		`"Good morning" --target-lang es`,
		`"Guten Tag" --source-lang de --target-lang fr`,
		`- --target-lang de < texts.txt`,
		`- --keyed --target-lang de < rows.tsv`,
	}
}

type embeddingInput struct{ plainInput }

func (embeddingInput) zero() tasks.Payload { return tasks.Embedding{} }

func (embeddingInput) fill(field, input string) map[string]any {
	return map[string]any{field: []string{input}}
}

func (embeddingInput) examples() []string {
	return []string{
		`"red apples" --model bge-m3`,
		`- --lane bulk < titles.txt`,
		`--payload '{"texts": ["red", "green"]}'`,
	}
}

type textInput struct {
	plainInput
	System string `xor:"conversation" placeholder:"TEXT" help:"A system message before the prompt."`
}

func (textInput) zero() tasks.Payload     { return tasks.Text{} }
func (textInput) whole() string           { return "messages" }
func (textInput) tags() map[string]string { return map[string]string{"messages": `xor:"conversation"`} }

func (i textInput) fill(field, input string) map[string]any {
	if i.System == "" {
		return map[string]any{field: input}
	}
	return map[string]any{"messages": []map[string]string{{"role": "system", "content": i.System}, {"role": "user", "content": input}}}
}

func (textInput) examples() []string {
	return []string{
		`"Name three rivers" --max-tokens 200`,
		`"Hi" --response-format '{"type": "json_object"}'`,
		`--messages '[{"role": "user", "content": "Hi"}]'`,
		`--payload - < requests.jsonl`,
	}
}
