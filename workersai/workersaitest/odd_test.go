package workersaitest_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/workersai"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// oneOfEachForm returns a model for each form of requests and answers.
func oneOfEachForm(kind string) (models []string) {
	seen := map[string]bool{}
	for _, model := range live(kind) {
		row, _ := catalogue.Find(model)
		form := fmt.Sprint(row.Answer, row.Transport, row.Whole, row.Price.PerMInput+row.Price.PerStep > 0)
		if !seen[form] {
			models = append(models, model)
		}
		seen[form] = true
	}
	return models
}

// Each oddity, for each form of answers. A usable answer costs one call and equals the
// plain answer. Any other is an error of the expected class.
func TestOddAnswersAreUsedWhereTheySayWhatIsAskedFor(t *testing.T) {
	classes := map[string]workersai.Class{
		"error_frame": workersai.Transient, "unusable": workersai.Unusable, "unknown_error": workersai.Transient,
		"blocked_page": workersai.Guarded, "redirect": workersai.Auth,
	}
	emulator := workersaitest.New(workersaitest.Options{NoLimits: true})
	client := emulator.Client()
	for _, o := range workersaitest.Oddities() {
		require.NotEmpty(t, o.About, o.Name)
		for kind, asks := range questions {
			for _, model := range oneOfEachForm(kind) {
				for i, ask := range asks {
					emulator.Reset()
					plain, err := ask(t, client, model)
					require.NoError(t, err, model)
					emulator.Fault(workersaitest.Fault{Odd: o.Name})
					got, err := ask(t, client, model)

					log := emulator.Requests()
					require.Len(t, log, 2)
					require.Equal(t, o.Name, log[1].Odd)
					require.Equal(t, o.Billed, log[1].Billed, "%s %s", o.Name, model)
					if o.Usable {
						require.NoError(t, err, "%s %s %d", o.Name, model, i)
						require.Equal(t, withoutTokens(plain), withoutTokens(got), "%s %s %d", o.Name, model, i)
						continue
					}
					var api *workersai.Error
					require.ErrorAs(t, err, &api, "%s %s %d", o.Name, model, i)
					require.Equal(t, classes[o.Name], api.Class(), "%s %s %d: %v", o.Name, model, i, err)
				}
			}
		}
	}
}

func TestAnOddityThatIsNoneIsRefused(t *testing.T) {
	emulator := workersaitest.New(workersaitest.Options{})
	require.PanicsWithValue(t, `workersaitest: "odd" is not a valid Odd, which is one of odd_fields, odd_form, nan_neurons, no_neurons, error_frame, unusable, unknown_error, blocked_page, redirect`, func() {
		emulator.Fault(workersaitest.Fault{Odd: "odd"})
	})
	recorder := httptest.NewRecorder()
	emulator.ServeHTTP(recorder, httptest.NewRequest(http.MethodPost, "/_emulator/faults", strings.NewReader(`{"Odd":"odd"}`)))
	require.Equal(t, http.StatusBadRequest, recorder.Code)
	require.Contains(t, recorder.Body.String(), "blocked_page")
}

func TestTheLogKeepsTheLastCallsAndSomeOfTheirBodies(t *testing.T) {
	emulator := workersaitest.New(workersaitest.Options{NoLimits: true, KeepCalls: 3, KeepBodies: 100})
	embed := func(text string) {
		_, _, err := emulator.Client().Embed(t.Context(), bge, workersai.EmbedInput{Texts: []string{text}})
		require.NoError(t, err)
	}
	sizes := func() (sizes []int) {
		for _, q := range emulator.Requests() {
			require.True(t, q.Billed)
			sizes = append(sizes, len(q.Body))
		}
		return sizes
	}
	around := len(`{"text":[""]}`)
	for range 5 {
		embed(strings.Repeat("a", 40-around))
	}
	require.Equal(t, []int{0, 40, 40}, sizes(), "three calls, and bodies of at most 100 bytes")
	embed(strings.Repeat("a", 90-around))
	require.Equal(t, []int{0, 0, 90}, sizes())
	embed(strings.Repeat("a", 200))
	require.Equal(t, []int{0, 0, 0}, sizes())

	emulator.Reset()
	require.Empty(t, emulator.Requests())
	embed(strings.Repeat("a", 60-around))
	embed(strings.Repeat("a", 70-around))
	require.Equal(t, []int{0, 70}, sizes())
}

// The log keeps part of a recording without holding many megabytes in memory.
func TestTheLogHoldsNoMoreOfABodyThanItShows(t *testing.T) {
	emulator := workersaitest.New(workersaitest.Options{NoLimits: true})
	recording := append(workersaitest.SampleWAV(), make([]byte, 4<<20)...)
	_, _, err := emulator.Client().Transcribe(t.Context(), "@cf/openai/whisper", workersai.TranscribeInput{
		Audio: strings.NewReader(string(recording)), Size: int64(len(recording)), ContentType: "audio/wav",
	})
	require.NoError(t, err)
	body := emulator.Requests()[0].Body
	require.Len(t, body, 64<<10)
	require.LessOrEqual(t, cap(body), 80<<10)
}

// A call that runs during a reset of the log must not change another call's entry.
func TestACallThatOutlivesAResetLeavesTheNewLogAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		emulator := workersaitest.New(workersaitest.Options{Latency: time.Minute})
		ended := make(chan error)
		go func() { ended <- ask(t.Context(), emulator.Client()) }()
		time.Sleep(time.Second)
		emulator.Reset()
		emulator.Fault(workersaitest.Fault{Code: 3040})
		require.Error(t, ask(t.Context(), emulator.Client()))
		require.NoError(t, <-ended)
		log := emulator.Requests()
		require.Len(t, log, 1)
		require.Equal(t, 3040, log[0].Code)
		require.False(t, log[0].Billed)
	})
}
