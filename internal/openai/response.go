package openai

import "github.com/neuronmill/neuronmill/tasks"

const contentJSON = "application/json"

// Response is the response to a request.
type Response struct {
	Status      int // of HTTP
	ContentType string
	Body        []byte
	Error       *Error // of a failed task; nil after success
	Tokens      Tokens
}

// Tokens are the tokens that a response states; zero for images and speech.
type Tokens struct{ Input, Output int }

// Response writes the result of the request's task. A failed task gives the response of
// its error. The error reports an unreadable result or artefact.
func (r *Request) Response(result *tasks.Result, open Opener) (*Response, error) {
	if result.Status == tasks.Failed {
		failure := result.Error
		if failure == nil {
			failure = &tasks.TaskError{Code: tasks.CodeInternalError, Message: "the task failed without a reason"}
		}
		e := r.Failure(failure)
		return &Response{Status: e.Status, ContentType: contentJSON, Body: e.Body(), Error: e}, nil
	}
	out := &Response{Status: 200, ContentType: contentJSON}
	var err error
	switch r.Endpoint {
	case Embeddings:
		out.Body, out.Tokens, err = r.embeddingResponse(result)
	case Chat:
		out.Body, out.Tokens, err = r.chatResponse(result)
	case Responses:
		out.Body, out.Tokens, err = r.modelResponse(result)
	case TextTranslations:
		out.Body, out.Tokens, err = r.translationResponse(result)
	case Images:
		out.Body, err = r.imageResponse(result, open)
	default:
		out.Body, out.ContentType, err = r.speechResponse(result, open)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}
