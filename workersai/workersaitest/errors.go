package workersaitest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/uuid"
)

// known has the API's refusals by code: status and text as captured. For 3039, 5004,
// 5005, 5018, 5019, 8006 and 8008 only the meaning is known, and the text is ours.
var known = map[int]struct {
	status int
	text   string
}{
	971:   {429, "Please wait and consider throttling your request speed"},
	2001:  {400, "Please configure AI Gateway in the Cloudflare dashboard"},
	2021:  {429, "Wholesale rate limit exceeded"},
	3003:  {400, "Missing headers or body"},
	3006:  {413, "Request is too large"},
	3007:  {408, "Request timeout"},
	3008:  {408, "Request was aborted"},
	3010:  {413, "estimated number of input and maximum output tokens exceeded this model context window limit"},
	3021:  {429, "rate limiting: inference request per min rate reached"},
	3023:  {403, "Account is blocked"},
	3030:  {400, "Sequence too long"},
	3036:  {429, "you have used up your daily free allocation of 10,000 neurons"},
	3039:  {400, "Finetune is missing required files"},
	3040:  {429, "Capacity temporarily exceeded, please try again."},
	3041:  {403, "Account is not allowed to use the private model"},
	3042:  {404, "Model name is invalid"},
	3043:  {500, "Internal server error"},
	3046:  {408, "Request timeout"},
	4006:  {429, "you have used up your daily free allocation of 10,000 neurons, please upgrade to Cloudflare's Workers Paid plan"},
	5004:  {400, "Invalid data type for base64 input"},
	5005:  {405, "Model does not support LoRA"},
	5006:  {400, "Bad input"},
	5007:  {400, "No such model or task"},
	5012:  {422, "Request body failed validation"},
	5016:  {403, "Model agreement was not accepted"},
	5018:  {403, "Account is not allowed to use the private model"},
	5019:  {405, "Deprecated SDK version"},
	5021:  {413, "estimated number of input and maximum output tokens exceeded this model context window limit"},
	5028:  {410, "This model was deprecated on"},
	5035:  {403, "This model requires a Workers Paid plan"},
	7000:  {400, "No route for that URI"},
	7003:  {404, "Could not route to the account, perhaps its identifier is invalid?"},
	7502:  {404, "Model not found"},
	7504:  {400, "Validation failed"},
	7505:  {429, "Rate limited"},
	7506:  {413, "Context exceeded"},
	8001:  {400, "Invalid input"},
	8004:  {500, "Internal server error"},
	8005:  {500, "Internal server error"},
	8006:  {400, "The forced tool call does not fit into max_tokens"},
	8007:  {400, `{"object":"error","message":"NSFW content detected","type":"BadRequestError","code":400}`},
	8008:  {500, "Unknown failure upstream"},
	9015:  {400, "failed to parse prompt"},
	9106:  {400, "Authentication failed"},
	10000: {401, "Authentication error"},
	10063: {400, "The model does not support request queuing"},
	10429: {429, "Please wait and consider throttling your request speed"},
}

// failed returns a refusal with the API's text, followed by why.
func failed(code int, why ...string) answer {
	k, ok := known[code]
	if !ok {
		k.status, k.text = http.StatusBadRequest, "error"
	}
	text := fmt.Sprintf("AiError: AiError: %s (%s)", strings.Join(append([]string{k.text}, why...), ": "), uuid.NewString())
	body, err := json.Marshal(map[string]any{
		"errors": []any{map[string]any{"message": text, "code": code}}, "success": false, "result": map[string]any{}, "messages": []any{},
	})
	if err != nil {
		panic(err) // strings and numbers always encode
	}
	return answer{status: k.status, code: code, contentType: "application/json", body: body}
}

func refuse(w http.ResponseWriter, code int) { failed(code).write(w) }
