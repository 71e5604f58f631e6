package webhook_test

import (
	"encoding/json"
	"os/exec"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/internal/webhook"
	"github.com/stretchr/testify/require"
)

// verifyJS verifies v1 with the independent library, and v1a with node's own cryptography.
// It prints the verified payload.
const verifyJS = `
const {Webhook} = require("standardwebhooks"), crypto = require("node:crypto");
const {secret, key, headers, body} = JSON.parse(process.argv[1]);
console.log(new Webhook(secret).verify(body, headers).type);
try { new Webhook(secret).verify(body + " ", headers); console.log("forged"); } catch (e) { console.log(e.message); }
const raw = Buffer.from(key.replace("whpk_", ""), "base64");
const spki = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), raw]);
const signature = headers["webhook-signature"].split(" ").find((s) => s.startsWith("v1a,")).slice(4);
const content = headers["webhook-id"] + "." + headers["webhook-timestamp"] + "." + body;
console.log(crypto.verify(null, Buffer.from(content), crypto.createPublicKey({key: spki, format: "der", type: "spki"}), Buffer.from(signature, "base64")));
`

func TestAnIndependentLibraryVerifiesTheSignatures(t *testing.T) {
	dir := realtest.NeedNPM(t, "standardwebhooks@1.1.1")
	signers, err := webhook.ParseSecrets(secret + " fedcba9876543210fedcba9876543210")
	require.NoError(t, err)
	body := `{"type":"task.completed","data":{"metadata":{"name":"Ærø 😀"}}}`
	for _, s := range signers {
		input, err := json.Marshal(map[string]any{
			"secret": s.Secret("acme"), "key": signers[0].PublicKey(), "body": body,
			"headers": webhook.Headers(signers, "acme", "msg_t_a", time.Now(), []byte(body)),
		})
		require.NoError(t, err)
		verify := exec.CommandContext(t.Context(), "node", "-e", verifyJS, string(input))
		verify.Dir = dir
		out, err := verify.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Equal(t, "task.completed\nNo matching signature found\ntrue\n", string(out))
	}
}

// unwrapJS verifies an event with OpenAI's SDK and prints its type and the id in it.
const unwrapJS = `
const {default: OpenAI} = require("openai");
const {secret, headers, body} = JSON.parse(process.argv[1]);
const client = new OpenAI({apiKey: "any"});
client.webhooks.unwrap(body, headers, secret).then((e) => console.log(e.type, e.data.id));
client.webhooks.unwrap(body + " ", headers, secret).then(() => console.log("forged"), () => {});
`

func TestTheSDKOfOpenAIVerifiesTheEventOfABatch(t *testing.T) {
	realtest.Long(t)
	dir := realtest.NeedNPM(t, "openai@6.49.0")
	signers, err := webhook.ParseSecrets(secret)
	require.NoError(t, err)
	body := `{"id":"evt_1","object":"event","type":"batch.completed","created_at":1,"data":{"id":"batch_1"}}`
	input, err := json.Marshal(map[string]any{
		"secret": signers[0].Secret("acme"), "body": body, "headers": webhook.Headers(signers, "acme", "evt_1", time.Now(), []byte(body)),
	})
	require.NoError(t, err)
	unwrap := exec.CommandContext(t.Context(), "node", "-e", unwrapJS, string(input))
	unwrap.Dir = dir
	out, err := unwrap.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "batch.completed batch_1\n", string(out))
}
