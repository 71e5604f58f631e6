package api

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"runtime"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/storage/fsstore"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// canary is a text that no answer of ours contains by chance.
const canary = "Xq7-canary-Zw93-Lk48-Pv26-Nt15"

// target is a route under attack.
type target struct {
	method, path string
	takes        string // kind of body: json, form, file; empty for none
	openai       bool   // answers in the envelope of OpenAI
	open         bool   // needs no key
	owned        bool   // the path names a thing of one tenant
	fits         fitting
}

func (a target) String() string { return a.method + " " + a.path }

// owned are the ids of one tenant's things.
type owned struct{ task, schedule, action, file, batch string }

// in returns a path of the document with the ids that fit it.
func (o owned) in(path string) string {
	id := o.task
	switch {
	case strings.HasPrefix(path, "/v1/actions"):
		id = o.action
	case strings.HasPrefix(path, "/v1/files"):
		id = o.file
	case strings.HasPrefix(path, "/v1/batches"):
		id = o.batch
	}
	return strings.NewReplacer("{id}", id, "{name}", o.schedule).Replace(path)
}

// batchFile is a form with the file of a batch of one line.
const batchFile = "--x\r\nContent-Disposition: form-data; name=purpose\r\n\r\nbatch\r\n" +
	"--x\r\nContent-Disposition: form-data; name=file; filename=a.jsonl\r\n\r\n" +
	`{"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{"model":"bge-m3","input":"x"}}` + "\r\n--x--\r\n"

// furnish gives the tenant of b.key one of each thing.
func (b *bench) furnish() owned {
	b.t.Helper()
	made := func(res answer, status int) (v map[string]any) {
		require.Equal(b.t, status, res.StatusCode, "%s", res.body)
		require.NoError(b.t, json.Unmarshal(res.body, &v))
		return v
	}
	var o owned
	o.task = b.submitted(goodMorning).ID
	o.schedule = made(b.call(http.MethodPost, "/v1/schedules", report), http.StatusCreated)["name"].(string)
	plan := made(b.call(http.MethodPost, "/v1/actions", `{"action":"cancel","filter":{"kind":"image"}}`), http.StatusOK)["plan"].(map[string]any)
	run := made(b.call(http.MethodPost, "/v1/actions", `{"token":"`+plan["token"].(string)+`"}`), http.StatusAccepted)["run"].(map[string]any)
	o.action = run["id"].(string)
	require.Eventually(b.t, func() bool { // it changes no more
		return strings.Contains(string(b.call(http.MethodGet, "/v1/actions/"+o.action, "").body), `"status":"ended"`)
	}, 10*time.Second, time.Millisecond)
	o.file = made(b.call(http.MethodPost, "/v1/files", batchFile, "Content-Type: multipart/form-data; boundary=x"), http.StatusOK)["id"].(string)
	order := `{"input_file_id":"` + o.file + `","endpoint":"/v1/embeddings","completion_window":"24h"}`
	o.batch = made(b.call(http.MethodPost, "/v1/batches", order), http.StatusOK)["id"].(string)
	return o
}

// targets lists the routes of the document and those that it cannot describe.
func (b *bench) targets(o owned) []target {
	var all []target
	b.eachRoute(func(method, path string, op *huma.Operation) {
		a := target{method: method, path: o.in(path), openai: slices.Contains(op.Tags, "OpenAI"), open: len(op.Security) == 0, owned: o.in(path) != path}
		switch {
		case op.RequestBody == nil && !a.openai, method == http.MethodGet, method == http.MethodDelete, strings.HasSuffix(path, "/cancel"):
		case strings.HasPrefix(path, "/v1/audio"), path == "/v1/files", path == "/v1/transcriptions":
			a.takes = "form"
		case path == "/v1/uploads":
			a.takes = "file"
		default:
			a.takes = "json"
		}
		if a.takes != "" {
			a.fits = fittingOf(b.t, path)
		}
		all = append(all, a)
	})
	return append(all, target{method: http.MethodGet, path: "/v1/models/@cf/" + canary, openai: true})
}

// refusal checks that an answer refuses, is short, has the form of its surface and
// repeats nothing of the request.
func (a target) refusal(t *testing.T, res answer) {
	t.Helper()
	require.GreaterOrEqual(t, res.StatusCode, 400, "%s: %s", a, res.body)
	require.Less(t, res.StatusCode, 500, "%s: %s", a, res.body)
	require.Less(t, len(res.body), 4096, a)
	require.False(t, repeats(res.body, []byte(canary)), "%s: %s", a, res.body)
	if !a.openai {
		require.Equal(t, "application/problem+json", res.Header.Get("Content-Type"), a)
		var p Problem
		res.into(t, &p)
		require.Contains(t, Codes, p.Code, a)
		return
	}
	require.Equal(t, "application/json", res.Header.Get("Content-Type"), a)
	var envelope struct {
		Error struct {
			Message, Type *string
			Param, Code   *string
		}
	}
	res.into(t, &envelope)
	require.NotNil(t, envelope.Error.Message, "%s: %s", a, res.body)
	require.NotEmpty(t, *envelope.Error.Type, a)
}

// repeats reports whether a text has a run of 16 bytes of the input.
func repeats(text, input []byte) bool {
	for i := 0; i+16 <= len(input) && i < 1<<20; i++ {
		if bytes.Contains(text, input[i:i+16]) {
			return true
		}
	}
	return false
}

// kept describes all that is in Redis and in the bucket.
func (b *bench) kept() []string {
	b.t.Helper()
	ctx, rdb := b.t.Context(), b.cfg.Redis
	var all []string
	names, err := rdb.Keys(ctx, "*").Result()
	require.NoError(b.t, err)
	for _, key := range names {
		all = append(all, key+" "+contentOf(b.t, rdb, key))
	}
	for info, err := range b.store.List(ctx, "", "") {
		require.NoError(b.t, err)
		all = append(all, fmt.Sprint(info.Key, " ", info.Size, " ", info.ETag))
	}
	slices.Sort(all)
	return all
}

// keptOf is the part of kept that one tenant's things have for themselves.
func (b *bench) keptOf(tenant string, o owned) []string {
	return slices.DeleteFunc(b.kept(), func(line string) bool {
		name, _, _ := strings.Cut(line, " ")
		return !strings.HasPrefix(name, tenant+"/") && !strings.Contains(name, "{"+tenant+"}") && !strings.HasSuffix(name, ":"+o.task)
	})
}

func contentOf(t *testing.T, rdb redis.UniversalClient, key string) string {
	ctx := t.Context()
	kind, err := rdb.Type(ctx, key).Result()
	require.NoError(t, err)
	switch kind {
	case "string":
		return rdb.Get(ctx, key).Val()
	case "hash":
		return fmt.Sprint(rdb.HGetAll(ctx, key).Val())
	case "list":
		return fmt.Sprint(rdb.LRange(ctx, key, 0, -1).Val())
	case "set":
		members := rdb.SMembers(ctx, key).Val()
		slices.Sort(members)
		return fmt.Sprint(members)
	case "zset":
		return fmt.Sprint(rdb.ZRange(ctx, key, 0, -1).Val())
	case "stream":
		return fmt.Sprint(rdb.XLen(ctx, key).Val())
	}
	return kind // it went meanwhile
}

// heap returns the bytes of all objects of the process that the collector has not freed.
func heap() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// rise returns by how many bytes the heap was above its start at most while f ran.
func rise(f func()) uint64 {
	runtime.GC()
	start, most := heap(), uint64(0)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for tick := time.NewTicker(time.Millisecond); ; {
			select {
			case <-stop:
				tick.Stop()
				return
			case <-tick.C:
				most = max(most, heap())
			}
		}
	}()
	f()
	close(stop)
	<-stopped
	return max(most, start) - start
}

// mostRise is how far the heap may rise while a route is under attack.
const mostRise = 64 << 20

// attack is a body that no route takes.
type attack struct {
	name    string
	takes   string // the kind of routes that it is for
	body    func() io.Reader
	headers []string
	// announced is the Content-Length; 0 sends the body in chunks.
	announced int64
}

// large reports whether an attack sends or unpacks megabytes.
func (a attack) large() bool { return largeAttack.MatchString(a.name) }

var largeAttack = regexp.MustCompile(`\d [MG]B|bytes of|long|heads|bomb`)

func text(s string) func() io.Reader { return func() io.Reader { return strings.NewReader(s) } }

// filled is a body of so many bytes: begin, then middle over and over, then end.
func filled(size int64, begin, middle, end string) func() io.Reader {
	return func() io.Reader {
		n := (size - int64(len(begin)+len(end))) / int64(len(middle)) * int64(len(middle))
		return io.MultiReader(strings.NewReader(begin), io.LimitReader(&endless{text: middle}, n), strings.NewReader(end))
	}
}

// numbered is an object of so many bytes with ever new names.
func numbered(size int) func() io.Reader {
	body := append(make([]byte, 0, size), `{"a":0`...)
	for n := 0; len(body) < size-20; n++ {
		body = fmt.Appendf(body, `,"a%d":0`, n)
	}
	body = append(body, '}')
	return func() io.Reader { return bytes.NewReader(body) }
}

// endless repeats a text for ever.
type endless struct {
	text string
	at   int
}

func (e *endless) Read(p []byte) (int, error) {
	for n := 0; n < len(p); {
		c := copy(p[n:], e.text[e.at:])
		n, e.at = n+c, (e.at+c)%len(e.text)
	}
	return len(p), nil
}

// bomb is 64 MB of spaces, compressed.
func bomb() string {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = io.Copy(w, io.LimitReader(&endless{text: " "}, 64<<20))
	w.Close()
	return packed.String()
}

func jsonAttacks(packed string) []attack {
	all := []attack{
		{name: "none", body: text("")},
		{name: "duplicate keys", body: text(`{"kind":"text","model":"bge-m3","kind":"` + canary + `","model":"` + canary + `"}`)},
		{name: "unknown field", body: text(`{"` + canary + `":"` + canary + `"}`)},
		{name: "wrong case", body: text(`{"KIND":"text","Input":"` + canary + `","TASKS":[],"Model":"bge-m3","INPUT_FILE_ID":"x"}`)},
		{name: "broken UTF-8", body: text(`{"kind":"` + canary + "\xff" + `"}`)},
		{name: "lone surrogate", body: text(`{"kind":"\ud800` + canary + `"}`)},
		{name: "trailing bytes", body: text(`{} ` + canary)},
		{name: "a list", body: text(`["` + canary + `"]`)},
		{name: "no JSON", body: text(canary + canary)},
		{name: "cut off", body: text(`{"kind":"` + canary)},
		{name: "NUL", body: text("{\"kind\":\"" + canary + "\x00\"}")},
		{name: "wrong types", body: text(`{"kind":7,"input":"` + canary + `","tasks":"` + canary + `","model":["` + canary + `"],"messages":"` + canary + `"}`)},
		{name: "deep", body: text(strings.Repeat(`[`, 20_000))},
		{name: "deep in a field", body: text(`{"input":` + strings.Repeat(`{"a":`, 9_000) + `1` + strings.Repeat(`}`, 9_000) + `}`)},
		{name: "secrets in input", body: text(`{"kind":"` + canary + `","model":"` + canary + `","lane":"` + canary + `","input":{"` + canary + `":"` + canary + `"},"metadata":{"` + canary + `":5}}`)},
		{name: "secrets of OpenAI", body: text(`{"model":"glm-4.7-flash","messages":[{"role":"` + canary + `","content":"` + canary + `"}],"input":[{"` + canary + `":1}],"prompt":["` + canary + `"],"input_file_id":"` + canary + `","endpoint":"` + canary + `","completion_window":"` + canary + `"}`)},
		{name: "a gzip bomb", body: text(packed)},
		{name: "a gzip bomb that says so", body: text(packed), headers: []string{"Content-Encoding: gzip"}},
		{name: "another type", body: text(canary), headers: []string{"Content-Type: text/" + canary}},
		{name: "64 MB", body: filled(64<<20, `{"kind":"`, canary, `"}`)},
		{name: "64 MB announced", body: filled(64<<20, ` `, ` `, ``), announced: 64 << 20},
	}
	for _, size := range []int64{1<<20 - 100, 8<<20 - 100} { // just below the limits of the routes
		all = append(all,
			attack{name: fmt.Sprint(size, " bytes of values"), body: filled(size, `{"kind":"text","tasks":[0`, ",0", "]}")},
			attack{name: fmt.Sprint(size, " bytes of lists"), body: filled(size, `{"kind":"text","messages":[[]`, ",[]", "]}")},
			attack{name: fmt.Sprint(size, " bytes of objects"), body: filled(size, `{"kind":"text","model":"glm-4.7-flash","messages":[{}`, ",{}", "]}")},
			attack{name: fmt.Sprint(size, " bytes of texts"), body: filled(size, `{"kind":"embedding","model":"bge-m3","input":["a"`, `,"a"`, `]}`)},
			attack{name: fmt.Sprint(size, " bytes of names"), body: numbered(int(size))},
			attack{name: fmt.Sprint(size, " bytes of one text"), body: filled(size, `{"kind":"text","model":"glm-4.7-flash","messages":[{"role":"user","content":"`, canary, `"}],"max_tokens":-1}`)},
		)
	}
	for i := range all {
		all[i].takes = "json"
	}
	return all
}

func formAttacks(packed string) []attack {
	const head = "--x\r\nContent-Disposition: form-data; name=\"%s\"\r\n\r\n"
	const file = "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"%s\"\r\n\r\n"
	const end = "\r\n--x--\r\n"
	wav := string(workersaitest.SampleWAV())
	part := func(form, name, content string) string { return fmt.Sprintf(form, name) + content + "\r\n" }
	all := []attack{
		{name: "none", body: text("")},
		{name: "no part", body: text("--x--\r\n")},
		{name: "no form", body: text(canary)},
		{name: "cut off", body: text(part(file, "a.jsonl", canary))},
		{name: "cut off in the head", body: text("--x\r\nContent-Disposition: form-data; name=\"" + canary)},
		{name: "unknown field", body: text(part(head, canary, canary) + end)},
		{name: "two files", body: text(part(file, "a.jsonl", canary) + part(file, "b.jsonl", canary) + end)},
		{name: "a bad name", body: text(part(file, strings.Repeat(canary, 20), canary) + end)},
		{name: "no recording", body: text(part(file, canary+".html", "<html>"+canary) + part(head, "model", "whisper") + part(head, "purpose", canary) + end)},
		{name: "duplicate keys", body: text(part(head, "task", `{"input":{},"input":"`+canary+`"}`) + part(head, "model", canary) + part(head, "model", "whisper") + part(file, "a.wav", wav) + end)},
		{name: "broken UTF-8", body: text(part(head, "task", `{"input":"`+canary+"\xff"+`"}`) + part(head, "model", canary+"\xff") + part(file, "a.wav", wav) + end)},
		{name: "wrong case", body: text(part(head, "task", `{"INPUT":{"LANGUAGE":"`+canary+`"}}`) + part(head, "MODEL", canary) + part(file, "a.wav", wav) + end)},
		{name: "secrets in fields", body: text(part(head, "task", `{"input":{"language":"`+canary+`"}}`) + part(head, "model", "whisper") + part(head, "language", canary) + part(file, "a.wav", wav) + end)},
		{name: "deep", body: text(part(head, "task", strings.Repeat("[", 20_000)) + part(head, "model", strings.Repeat("[", 20_000)) + part(file, "a.wav", wav) + end)},
		{name: "many fields", body: text(strings.Repeat(part(head, "task", "{}"), 1000) + end)},
		{name: "a long field", body: filled(1<<20, fmt.Sprintf(head, "task"), canary, end)},
		{name: "a long head", body: filled(16<<20, "--x\r\nX-A: ", canary, "\r\n\r\n"+end)},
		{name: "many heads", body: filled(16<<20, "--x\r\n", "X-A: b\r\n", "\r\n"+end)},
		{name: "a gzip bomb", body: text(part(file, "a.jsonl", packed) + part(head, "purpose", "batch") + part(head, "model", "whisper") + end)},
		{name: "a gzip bomb that says so", body: text(packed), headers: []string{"Content-Encoding: gzip"}},
		{name: "another type", body: text(canary), headers: []string{"Content-Type: text/" + canary}},
		{name: "no boundary", body: text(canary), headers: []string{"Content-Type: multipart/form-data"}},
		{name: "64 MB of field", body: filled(64<<20, fmt.Sprintf(head, "task"), canary, end)},
		{name: "64 MB of file", body: filled(64<<20, part(head, "purpose", canary)+part(head, "model", canary)+fmt.Sprintf(file, "a.wav"), canary, end)},
		{name: "64 MB that end early", body: filled(64<<20, part(head, "purpose", "vision")+part(head, "model", "whisper")+fmt.Sprintf(file, "a.wav")+wav, canary, "\r\n--y\r\n")},
		{name: "2 GB announced", body: filled(2<<30, " ", " ", ""), announced: 2 << 30},
	}
	for i := range all {
		all[i].takes = "form"
		if len(all[i].headers) == 0 || !strings.HasPrefix(all[i].headers[0], "Content-Type") {
			all[i].headers = append(all[i].headers, "Content-Type: multipart/form-data; boundary=x")
		}
	}
	return all
}

// bodyAttacks are the bodies that one kind of routes must refuse.
func bodyAttacks() []attack {
	packed := bomb()
	return slices.Concat(jsonAttacks(packed), formAttacks(packed), []attack{
		{name: "none", takes: "file", body: text("")},
		{name: "a gzip bomb that says so", takes: "file", body: text(packed), headers: []string{"Content-Encoding: gzip"}},
		{name: "3 GB announced", takes: "file", body: filled(3<<30, " ", " ", ""), announced: 3 << 30},
		{name: "64 MB announced", takes: "", body: filled(64<<20, " ", " ", ""), announced: 64 << 20},
	})
}

func (b *bench) attack(t *testing.T, a target, with attack) answer {
	req, err := http.NewRequestWithContext(t.Context(), a.method, b.url+a.path, with.body())
	require.NoError(t, err)
	req.ContentLength = with.announced
	if with.announced == 0 {
		req.ContentLength = -1
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+b.key)
	for _, h := range with.headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	return b.exchange(t, req)
}

// exchange sends a request and reads the answer at the same time, as the server may
// answer and close the connection in the middle of a body.
func (b *bench) exchange(t *testing.T, req *http.Request) answer {
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", req.URL.Host)
	require.NoError(t, err)
	sent := make(chan struct{})
	go func() {
		_ = req.Write(conn) // the server may have had enough
		close(sent)
	}()
	defer func() { conn.Close(); <-sent }()
	res, err := http.ReadResponse(bufio.NewReader(conn), req)
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return answer{res, body}
}

// TestEveryRouteStandsAttacks sends each route bodies that it must refuse. The refusal is
// short and repeats nothing, the memory stays flat, and nothing stays in Redis or in the
// bucket.
func TestEveryRouteStandsAttacks(t *testing.T) {
	realtest.Long(t)
	bucket, err := fsstore.Open(t.TempDir()) // it streams; one in memory would hold uploads
	require.NoError(t, err)
	b := newBenchWith(t, Config{Store: bucket}).withKeys()
	targets := b.targets(b.furnish())
	require.Greater(t, len(targets), 40)
	attacks, worst := bodyAttacks(), uint64(0)
	for _, a := range targets {
		for _, with := range attacks {
			if with.takes != a.takes || raceDetector && with.large() {
				continue // under the race detector the large ones take ten times as long
			}
			t.Run(a.String()+" "+with.name, func(t *testing.T) {
				before := b.kept()
				var res answer
				risen := rise(func() { res = b.attack(t, a, with) })
				a.refusal(t, res)
				require.Equal(t, before, b.kept(), "nothing of a refused request stays behind")
				worst = max(worst, risen)
				require.Less(t, risen, uint64(mostRise))
			})
		}
	}
	t.Logf("the heap rose by at most %d MB", worst>>20)
}
