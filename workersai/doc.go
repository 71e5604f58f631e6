// Package workersai is a client for the REST API of Cloudflare Workers AI. It sends each
// model its own form of request and returns one type per kind of work.
//
// # Calls
//
// A [Client] needs an account and a token:
//
//	client := &workersai.Client{AccountID: account, Token: token}
//	texts, meta, err := client.Translate(ctx, "@cf/meta/m2m100-1.2b", workersai.TranslateInput{
//		Texts: []string{"Good morning"}, Target: "es",
//	})
//
// [Client.Transcribe], [Client.Image], [Client.Embed] and [Client.Generate] are the other
// kinds. [Meta] has the price of a call, also beside an error: an answer that is cut off
// or of no use may have been billed.
//
// # Errors
//
// The client never retries. The methods of an [*Error] say what to do: [Error.Class] is
// the right reaction, [Error.Reason] a stable code, and [Error.Lost] reports a call that
// may have been billed although no usable answer came.
//
// # Tests
//
// Package [workersaitest] has an emulator of the API.
//
// [workersaitest]: https://pkg.go.dev/github.com/neuronmill/neuronmill/workersai/workersaitest
package workersai
