package api

import (
	"context"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/neuronmill/neuronmill/storage"
)

// Links lead to the bucket itself. Any holder of a link may use it until it ends.
const (
	uploadLinkTime = time.Hour
	resultLinkTime = 15 * time.Minute
)

func (s *Server) linkRoutes() {
	jsonRoute(s, keys.TasksWrite, huma.Operation{
		OperationID: "presignUpload", Method: http.MethodPost, Path: "/v1/uploads:presign", Summary: "Gives a link that uploads a file to the bucket", Tags: []string{"tasks"}, DefaultStatus: http.StatusCreated,
		Description: "Send `method`, `url` and `headers` as they are, with a body of exactly `bytes`, within an hour: no key is needed, and the file does not pass this server. A link works once. " +
			"`key` is for input.audio.key of a transcription; the worker checks the content. An upload that nothing names within 24 hours is deleted. Needs a bucket that makes links, as S3 and R2 do.",
	}, s.presignUpload)
}

type presignInput struct {
	Body struct {
		Bytes       int64  `json:"bytes" minimum:"1" maximum:"2147483648" doc:"Length of the file, exactly." example:"1048576"`
		ContentType string `json:"content_type,omitempty" maxLength:"128" doc:"Type of the file; application/octet-stream by default." example:"audio/wav"`
	}
}

// LinkBody is a request that goes to the bucket. It is exported since the document lacks the
// fields of embedded types that are not.
type LinkBody struct {
	Method      string            `json:"method"`
	URL         string            `json:"url" doc:"A secret until it ends."`
	Headers     map[string]string `json:"headers,omitempty" doc:"Must be sent as they are."`
	ExpiresAt   time.Time         `json:"expires_at"`
	Bytes       int64             `json:"bytes"`
	ContentType string            `json:"content_type"`
}

type uploadLinkBody struct {
	Key string `json:"key" doc:"For input.audio.key."`
	LinkBody
}

type presignOutput struct {
	Body uploadLinkBody
}

// presigner returns the bucket, or a problem if it makes no links.
func (s *Server) presigner() (storage.Presigner, error) {
	store, ok := s.cfg.Store.(storage.Presigner)
	if !ok {
		return nil, newProblem(codeNoLinks, "")
	}
	return store, nil
}

func (s *Server) presignUpload(ctx context.Context, in *presignInput) (*presignOutput, error) {
	contentType := "application/octet-stream"
	if text := in.Body.ContentType; text != "" {
		parsed, _, err := mime.ParseMediaType(text)
		if err != nil {
			return nil, newProblem(codeFieldRange, "", FieldError{Field: "content_type", Message: "is not a media type like audio/wav", Code: codeFieldRange})
		}
		contentType = parsed
	}
	store, err := s.presigner()
	if err != nil {
		return nil, err
	}
	key := uploadKey(callerOf(ctx).tenant, "")
	if err := objects.MarkUpload(ctx, s.cfg.Store, key); err != nil {
		return nil, err
	}
	link, err := store.PresignCreate(ctx, key, in.Body.Bytes, contentType, uploadLinkTime)
	if err != nil {
		return nil, err
	}
	return &presignOutput{uploadLinkBody{key, newLinkBody(link, in.Body.Bytes, contentType)}}, nil
}

func newLinkBody(link storage.Link, bytes int64, contentType string) LinkBody {
	headers := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(link.Header)) {
		headers[name] = link.Header.Get(name)
	}
	return LinkBody{Method: link.Method, URL: link.URL, Headers: headers, ExpiresAt: link.Expires, Bytes: bytes, ContentType: contentType}
}

// writeLink answers with a link to an object that a result consists of.
func (s *Server) writeLink(w http.ResponseWriter, req *http.Request, key string) error {
	ctx := req.Context()
	store, err := s.presigner()
	if err != nil {
		return err
	}
	info, err := s.cfg.Store.Head(ctx, key)
	if err != nil {
		return fmt.Errorf("look for a file of the result: %w", err)
	}
	link, err := store.PresignGet(ctx, key, resultLinkTime)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, newLinkBody(link, info.Size, info.ContentType))
}
