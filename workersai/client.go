// Package workersai is a client of Cloudflare Workers AI over its REST API. It sends
// each model what that model takes and gives back one shape per kind of work. It never
// retries: what to do about an *Error is the caller's decision, and Error.Class says
// which one is due.
package workersai

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"
)

// Production is the API's own address.
const Production = "https://api.cloudflare.com/client/v4"

// bodyLimit is the longest answer that is read.
const bodyLimit = 64 << 20

// Client asks on behalf of one account. Its fields are not changed while in use.
type Client struct {
	BaseURL   string // Production when empty
	AccountID string
	Token     string // never shown in errors
	Gateway   string // id of an AI Gateway to go through; none when empty
	HTTP      *http.Client
}

// String leaves the token out, so that a printed client gives nothing away.
func (c *Client) String() string { return "workersai client of account " + c.AccountID }

// GoString does the same for %#v.
func (c *Client) GoString() string { return c.String() }

// request is one call: the body and what it is.
type request struct {
	model       string
	body        io.Reader
	size        int64 // -1 when not known
	contentType string
}

// post sends a request and returns the answer when the API said yes. The caller closes
// its body. Everything else is an *Error.
func (c *Client) post(ctx context.Context, r request) (*http.Response, error) {
	url := c.account() + "/ai/run/" + r.model
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, r.body)
	if err != nil {
		return nil, &Error{Message: "the request cannot be made: check CLOUDFLARE_BASE_URL", Code: 7000, cause: err}
	}
	req.ContentLength = r.size
	req.Header.Set("Content-Type", r.contentType)
	return c.do(req)
}

func (c *Client) account() string {
	base := c.BaseURL
	if base == "" {
		base = Production
	}
	return strings.TrimSuffix(base, "/") + "/accounts/" + c.AccountID
}

func (c *Client) do(req *http.Request) (*http.Response, error) {
	req.Header.Set("Authorization", "Bearer "+c.Token)
	if c.Gateway != "" {
		req.Header.Set("Cf-Aig-Gateway-Id", c.Gateway)
	}
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, transportError(err, nil)
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		return nil, refusal(resp)
	}
	return resp, nil
}

// jsonRequest encodes the body of a model that takes JSON.
func jsonRequest(model string, body any) (request, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return request{}, fmt.Errorf("encode the request: %w", err)
	}
	return request{model: model, body: bytes.NewReader(b), size: int64(len(b)), contentType: "application/json"}, nil
}

// envelope is what JSON answers come in. An OpenAI-style error is understood too.
type envelope struct {
	Result  json.RawMessage `json:"result"`
	Success *bool           `json:"success"`
	Errors  []apiError      `json:"errors"`
	Error   json.RawMessage `json:"error"`
}

// ask sends JSON and decodes the result into out.
func (c *Client) ask(ctx context.Context, model string, body, out any) (Meta, error) {
	r, err := jsonRequest(model, body)
	if err != nil {
		return Meta{}, err
	}
	return c.askRequest(ctx, r, out)
}

func (c *Client) askRequest(ctx context.Context, r request, out any) (Meta, error) {
	start := time.Now()
	resp, err := c.post(ctx, r)
	if err != nil {
		return Meta{Took: time.Since(start)}, err
	}
	defer resp.Body.Close()
	meta := metaOf(resp, start)
	return meta, decodeResult(resp, out)
}

// decodeResult reads a JSON answer of status 200, which may still say no.
func decodeResult(resp *http.Response, out any) error {
	body, err := readBody(resp)
	if err != nil {
		return err
	}
	result, err := openEnvelope(resp, body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(result, out); err != nil {
		return badAnswer(resp, "the result has another shape than the model's")
	}
	return nil
}

func openEnvelope(resp *http.Response, body []byte) (json.RawMessage, error) {
	if t := mediaType(resp); t != "" && t != "application/json" && !strings.HasSuffix(t, "+json") {
		return nil, badAnswer(resp, "expected JSON, got "+t)
	}
	var e envelope
	if err := json.Unmarshal(body, &e); err != nil {
		return nil, badAnswer(resp, "the body is not whole JSON")
	}
	if e.Success != nil && !*e.Success || len(e.Errors) > 0 || len(e.Error) > 0 && string(e.Error) != "null" {
		refused := errorOf(resp, body)
		refused.broken = refused.Code == 0 && refused.Message == noReason
		return nil, refused
	}
	if e.Success == nil && e.Result == nil {
		return body, nil // a gateway may take the envelope off
	}
	if len(e.Result) == 0 || string(e.Result) == "null" {
		return nil, badAnswer(resp, "the answer has no result")
	}
	return e.Result, nil
}

func readBody(resp *http.Response) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, bodyLimit+1))
	if err != nil {
		return nil, transportError(err, resp)
	}
	if len(body) > bodyLimit {
		return nil, badAnswer(resp, fmt.Sprintf("the answer has more than %d bytes", bodyLimit))
	}
	return body, nil
}

func mediaType(resp *http.Response) string {
	t, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return t
}

// Probe asks for a made-up model, which costs nothing: nil means that address, account
// and token are all well.
func (c *Client) Probe(ctx context.Context) error {
	var nothing json.RawMessage
	_, err := c.ask(ctx, "@cf/neuronmill/made-up-model", map[string]string{"prompt": "x"}, &nothing)
	if api, ok := errors.AsType[*Error](err); ok {
		switch api.Code {
		case 5007, 3042, 7502:
			return nil
		}
	}
	if err == nil {
		return errors.New("the API answered for a model that does not exist")
	}
	return err
}
