package engine_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// boundless lists the engine's waits without a context, with the event that ends each.
var boundless = map[string]string{
	"coalescer.go submit":            "the call that carries the entry has a time limit",
	"../liveness/failover.go check":  "it gives the lock back",
	"../maintenance/jobs.go look":    "it gives the lock back",
	"sharedends.go close":            "each write has a time limit",
	"shutdown.go logStop":            "the line is being written",
	"shutdown.go shutDown":           "servers have a time limit of their own, and so has every run",
	"worker.go serve":                "services end soon after their context",
	"worker.go startHeartbeats":      "the beat ends with its context",
	"../maintenance/leader.go lead":  "jobs end with their context",
	"../maintenance/queue.go endAll": "each end has time limits",
	"checkpoint.go storeFiles":       "each write has a time limit",
}

// Every wait of the engine ends with a context: each select without a default has a case
// for Done. Each exception states its reason.
func TestEveryWaitOfTheEngineEndsWithAContext(t *testing.T) {
	found := map[string]bool{}
	for _, pattern := range []string{"*.go", "../liveness/*.go", "../maintenance/*.go"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, file := range files {
			if !strings.HasSuffix(file, "_test.go") {
				waitsOf(t, file, found)
			}
		}
	}
	for where, excepted := range boundless {
		require.Contains(t, found, where, "no wait without a context is there any more: %s", excepted)
	}
	for _, where := range slices.Sorted(maps.Keys(found)) {
		require.Contains(t, boundless, where, "a wait that no context ends")
	}
}

// waitsOf collects the functions of a file that wait without a context.
func waitsOf(t *testing.T, file string, found map[string]bool) {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	require.NoError(t, err)
	for _, decl := range parsed.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Body == nil {
			continue
		}
		guarded := map[ast.Node]bool{} // channels in a select
		ast.Inspect(f.Body, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectStmt); ok {
				ends := false
				for _, clause := range s.Body.List {
					comm := clause.(*ast.CommClause).Comm
					ends = ends || comm == nil || endsWithContext(comm)
					if comm != nil {
						ast.Inspect(comm, func(m ast.Node) bool { guarded[m] = true; return true })
					}
				}
				if !ends {
					found[file+" "+f.Name.Name] = true
				}
			}
			return true
		})
		ast.Inspect(f.Body, func(n ast.Node) bool {
			if !guarded[n] && waits(n) {
				found[file+" "+f.Name.Name] = true
			}
			return true
		})
	}
}

// endsWithContext reports whether a case of a select receives from a context's Done.
func endsWithContext(comm ast.Stmt) bool {
	ends := false
	ast.Inspect(comm, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if s, ok := call.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "Done" {
				ends = true
			}
		}
		return true
	})
	return ends
}

// waits reports whether an expression blocks: a receive, a sleep, a wait group.
func waits(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.UnaryExpr:
		return n.Op == token.ARROW
	case *ast.CallExpr:
		s, ok := n.Fun.(*ast.SelectorExpr)
		if !ok {
			return false
		}
		x, _ := s.X.(*ast.Ident)
		return s.Sel.Name == "Wait" && len(n.Args) == 0 || x != nil && x.Name == "time" && s.Sel.Name == "Sleep"
	}
	return false
}

// The time to live of a waiting task, and how soon a wait ends after its cause.
const (
	waitingTTL = 3 * time.Minute
	soon       = 20 * time.Second
)

// waitPoints bring a task to each place where the engine waits. The worker already runs.
// The task has waitingTTL to live, and still waits a minute later.
var waitPoints = map[string]func(t *testing.T, r *rig) (id string){
	"at a closed gate": func(t *testing.T, r *rig) string {
		require.NoError(t, r.cfg.Gate.Set(t.Context(), texter, 0))
		return r.enqueue(tasks.Text{Prompt: "waits"}, tasks.WithTimeToLive(waitingTTL))
	},
	"for its turn at a slow gate": func(t *testing.T, r *rig) string {
		require.NoError(t, r.cfg.Gate.Set(t.Context(), texter, 1))
		for i := range 6 {
			r.enqueue(tasks.Text{Prompt: fmt.Sprint("before ", i)})
		}
		return r.enqueue(tasks.Text{Prompt: "waits"}, tasks.WithTimeToLive(waitingTTL))
	},
	"in a group at a closed gate": func(t *testing.T, r *rig) string {
		require.NoError(t, r.cfg.Gate.Set(t.Context(), embedder, 0))
		r.enqueue(tasks.Embedding{Texts: []string{"stays"}})
		return r.enqueue(tasks.Embedding{Texts: []string{"waits"}}, tasks.WithTimeToLive(waitingTTL))
	},
	"in a group at a slow gate": func(t *testing.T, r *rig) string {
		require.NoError(t, r.cfg.Gate.Set(t.Context(), embedder, 1))
		texts := make([]string, 700) // seven calls
		for i := range texts {
			texts[i] = fmt.Sprint("text ", i)
		}
		return r.enqueue(tasks.Embedding{Texts: texts}, tasks.WithTimeToLive(waitingTTL))
	},
	"between two calls at a closed gate": func(t *testing.T, r *rig) string {
		r.ai.Fault(workersaitest.Fault{Kind: "embedding", To: 1, Delay: 10 * time.Second})
		texts := make([]string, 150)
		for i := range texts {
			texts[i] = fmt.Sprint("text ", i)
		}
		id := r.enqueue(tasks.Embedding{Texts: texts}, tasks.WithTimeToLive(waitingTTL))
		time.Sleep(5 * time.Second)
		require.NoError(t, r.cfg.Gate.Set(t.Context(), embedder, 0))
		return id
	},
	"deferred": func(t *testing.T, r *rig) string {
		require.NoError(t, r.cfg.Gate.Set(t.Context(), texter, 0))
		require.NoError(t, r.cfg.Gate.Set(t.Context(), "@cf/meta/llama-3.2-1b-instruct", 0))
		r.enqueue(tasks.Text{Prompt: "other"}, tasks.WithModel("@cf/meta/llama-3.2-1b-instruct"))
		return r.enqueue(tasks.Text{Prompt: "waits"}, tasks.WithTimeToLive(waitingTTL))
	},
	"for its isolation": func(t *testing.T, r *rig) string {
		r.ai.Fault(workersaitest.Fault{Contains: "endless", Hang: true})
		r.enqueue(tasks.Text{Prompt: "endless"})
		time.Sleep(2 * time.Second)
		id := r.enqueue(tasks.Translation{Text: "suspect", TargetLang: "es"}, tasks.WithDelay(time.Second), tasks.WithTimeToLive(waitingTTL))
		r.suspect(id, 2)
		return id
	},
	"behind a task that is isolated": func(t *testing.T, r *rig) string {
		r.ai.Fault(workersaitest.Fault{Contains: "endless", Hang: true})
		suspect := r.enqueue(tasks.Text{Prompt: "endless"}, tasks.WithDelay(time.Second))
		r.suspect(suspect, 2)
		time.Sleep(10 * time.Second)
		return r.enqueue(tasks.Translation{Text: "waits", TargetLang: "es"}, tasks.WithTimeToLive(waitingTTL))
	},
}

// waiting runs a story with a waiting task.
func waiting(t *testing.T, point func(*testing.T, *rig) string, story func(t *testing.T, r *rig, id string)) {
	alone(t, func(t *testing.T, r *rig) {
		r.cfg.Kinds = []tasks.Kind{tasks.KindText, tasks.KindEmbedding, tasks.KindTranslation}
		r.work()
		id := point(t, r)
		time.Sleep(time.Minute)
		require.Zero(t, r.ended([]string{id}), "it waits")
		story(t, r, id)
	})
}

func TestEveryWaitEndsWithTheDeadline(t *testing.T) {
	t.Parallel()
	for name, point := range waitPoints {
		t.Run(name, func(t *testing.T) {
			waiting(t, point, func(t *testing.T, r *rig, id string) {
				result := r.wait(id)
				require.Equal(t, tasks.CodeDeadlineExceeded, result.Error.Code)
				require.Less(t, result.FinishedAt.Sub(result.CreatedAt), waitingTTL+soon)
			})
		})
	}
}

func TestEveryWaitEndsWithACancellation(t *testing.T) {
	realtest.Long(t)
	t.Parallel()
	for name, point := range waitPoints {
		t.Run(name, func(t *testing.T) {
			waiting(t, point, func(t *testing.T, r *rig, id string) {
				require.NoError(t, r.client.Cancel(t.Context(), id))
				time.Sleep(soon)
				require.Equal(t, 1, r.ended([]string{id}))
				require.Equal(t, tasks.CodeCancelled, r.wait(id).Error.Code)
			})
		})
	}
}

// A worker that is told to stop waits only for the running calls.
func TestEveryWaitEndsWithTheStopOfTheWorker(t *testing.T) {
	t.Parallel()
	for name, point := range waitPoints {
		t.Run(name, func(t *testing.T) {
			waiting(t, point, func(t *testing.T, r *rig, id string) {
				r.ai.Heal() // running calls finish
				var took time.Duration
				stopped := make(chan struct{})
				go func() {
					start := time.Now()
					r.stop()
					took = time.Since(start)
					close(stopped)
				}()
				<-stopped
				require.Less(t, took, soon)
				require.Zero(t, r.ended([]string{id}))
				r.ai.Heal()
			})
		})
	}
}
