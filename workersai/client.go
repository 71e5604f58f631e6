package workersai

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"
)

// Production is the address of the API.
const Production = "https://api.cloudflare.com/client/v4"

// Client calls the API for one account. Do not change its fields while it is in use.
type Client struct {
	BaseURL   string // empty means Production
	AccountID string
	Token     string       // never shown in errors
	Gateway   string       // id of an AI Gateway; empty means none
	HTTP      *http.Client // nil means a client that keeps a connection for each concurrent call
}

// manyConnections is http.DefaultClient tuned for many concurrent calls to one address.
// The default keeps two idle connections per host and dials for every further call.
var manyConnections = func() *http.Client {
	t, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return http.DefaultClient
	}
	t = t.Clone()
	t.MaxIdleConns, t.MaxIdleConnsPerHost = 512, 512
	return &http.Client{Transport: t}
}()

// String omits the token, so that printing a client is safe.
func (c *Client) String() string { return "workersai client of account " + c.AccountID }

// GoString omits the token from %#v too.
func (c *Client) GoString() string { return c.String() }

// request is one call: the model, the body and its content type.
type request struct {
	model       string
	body        io.Reader
	size        int64 // -1 when unknown
	contentType string
}

// post sends a request. On success, the reply has the answer and the caller closes it. An
// error is always an *Error, and the reply beside it has the call's Meta.
func (c *Client) post(ctx context.Context, r request) (reply, error) {
	url := c.account() + "/ai/run/" + r.model
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, r.body)
	if err != nil {
		return c.unmade(err)
	}
	req.ContentLength = r.size
	req.Header.Set("Content-Type", r.contentType)
	return c.do(req)
}

func (c *Client) unmade(cause error) (reply, error) {
	return reply{start: time.Now()}, &Error{Message: "the request cannot be made: check CLOUDFLARE_BASE_URL", Code: 7000, cause: cause}
}

func (c *Client) account() string {
	base := c.BaseURL
	if base == "" {
		base = Production
	}
	return strings.TrimSuffix(base, "/") + "/accounts/" + c.AccountID
}

func (c *Client) do(req *http.Request) (reply, error) {
	req.Header.Set("Authorization", "Bearer "+c.Token)
	if c.Gateway != "" {
		req.Header.Set("Cf-Aig-Gateway-Id", c.Gateway)
	}
	client := *manyConnections
	if c.HTTP != nil {
		client = *c.HTTP
	}
	// A redirect would send the prompt, and perhaps the token, to another server.
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	r := reply{start: time.Now(), token: c.Token}
	resp, err := client.Do(req) //nolint:bodyclose // whoever reads the reply closes it
	if err != nil {
		return r, r.transportError(err)
	}
	r.Response = resp
	if resp.Request == nil {
		resp.Request = req // required by Location
	}
	if resp.StatusCode/100 != 2 {
		defer r.close()
		return r, r.readRefusal()
	}
	return r, nil
}

// jsonRequest encodes the body for a model that takes JSON.
func jsonRequest(model string, body any) (request, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return request{}, unsendable(err)
	}
	return request{model: model, body: bytes.NewReader(b), size: int64(len(b)), contentType: "application/json"}, nil
}

// ask sends JSON and decodes the result into out.
func (c *Client) ask(ctx context.Context, model string, body, out any) (reply, error) {
	r, err := jsonRequest(model, body)
	if err != nil {
		return reply{}, err
	}
	return c.askRequest(ctx, r, out)
}

func (c *Client) askRequest(ctx context.Context, r request, out any) (reply, error) {
	answer, err := c.post(ctx, r)
	if err != nil {
		return answer, err
	}
	defer answer.close()
	return answer, answer.decodeResult(out)
}

// Probe calls a model that does not exist, which is free. nil means that address, account
// and token are valid.
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
