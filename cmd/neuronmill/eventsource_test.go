package main

import (
	"bufio"
	"encoding/json"
	"net/http"
	"os/exec"
	"testing"
	"time"

	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/workersai/workersaitest"
	"github.com/stretchr/testify/require"
)

// followJS follows a task with an independent EventSource, which connects again by itself.
// It prints the type of each event, and all that it has read at the end.
const followJS = `
const {EventSource} = require("eventsource");
const source = new EventSource(process.argv[1]);
let text = "", opened = 0;
source.addEventListener("open", () => opened++);
for (const type of ["queued", "waiting", "running", "text", "progress", "done", "end"]) {
  source.addEventListener(type, (event) => {
    if (type === "running") text = "";
    if (type === "text") text += JSON.parse(event.data).text;
    console.log(JSON.stringify({type, id: event.lastEventId}));
  });
}
source.addEventListener("error", () => {
  if (source.readyState !== EventSource.CLOSED) return; // it connects again
  console.log(JSON.stringify({type: "closed", text, opened}));
});
`

// TestAnEventSourceFollowsATaskOverTheRestartOfItsServer kills the server while a call runs,
// and starts another one at its address.
func TestAnEventSourceFollowsATaskOverTheRestartOfItsServer(t *testing.T) {
	t.Parallel()
	npm := realtest.NeedNPM(t, "eventsource@4.1.0")
	f := newFleet(t)
	f.fault(workersaitest.Fault{Delay: 5 * time.Second})
	address := realtest.FreeAddr(t)
	serve := func() *exec.Cmd {
		cmd := f.start("serve", "--listen", address)
		realtest.WaitTCP(t, address)
		return cmd
	}
	first := serve()
	s := site{t, "http://" + address}
	id := s.accepted("a story")
	node := exec.CommandContext(t.Context(), "node", "-e", followJS, s.url+"/v1/tasks/"+id+"/events")
	node.Dir = npm
	out, err := node.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, node.Start())
	f.start("worker", "--concurrency", "2")

	var last struct {
		Type, ID, Text string
		Opened         int
	}
	seen := map[string]int{}
	ids := map[string]bool{}
	for lines := bufio.NewScanner(out); lines.Scan() && last.Type != "closed"; {
		require.NoError(t, json.Unmarshal(lines.Bytes(), &last), "%s", lines.Text())
		if last.Type == "end" || last.Type == "closed" {
			continue
		}
		require.False(t, ids[last.ID], "the event %s comes once", last.ID)
		ids[last.ID] = true
		if seen[last.Type]++; last.Type == "running" && seen[last.Type] == 1 {
			require.NoError(t, first.Process.Kill())
			_ = first.Wait()
			serve()
		}
	}
	require.NoError(t, node.Wait())
	require.Equal(t, "closed", last.Type, "204 after the end closes it: %v", seen)
	require.Equal(t, 1, seen["done"], "%v", seen)
	require.GreaterOrEqual(t, last.Opened, 2, "it has connected again")
	var task struct{ Output struct{ Text string } }
	s.ask(http.MethodGet, "/v1/tasks/"+id, "", http.StatusOK, &task)
	require.NotEmpty(t, task.Output.Text)
	require.Equal(t, task.Output.Text, last.Text, "the whole text, once")
}
