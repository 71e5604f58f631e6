package api

import (
	"context"
	"net/http"
	"reflect"
	"regexp"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/neuronmill/neuronmill/internal/keys"
	"github.com/neuronmill/neuronmill/tasks"
)

// mostMany is the most bytes of a body with many tasks.
const mostMany = 8 << 20

// mostWait is the longest that a request may wait for a task.
const mostWait = 60 * time.Second

func (s *Server) taskRoutes() {
	tags := []string{"tasks"}
	jsonRoute(s, keys.TasksWrite, huma.Operation{
		OperationID: "submitTask", Method: http.MethodPost, Path: "/v1/tasks", Summary: "Submits a task", Tags: tags, DefaultStatus: http.StatusAccepted,
		Description:  "Answers 202 once the task is accepted, or 200 with the ended task if `Prefer: wait=N` was sent and it ends in time. The same Idempotency-Key with the same body gives the same task.",
		MaxBodyBytes: 4 << 20,
		Responses: map[string]*huma.Response{"200": {Description: "The task, which has ended.", Content: map[string]*huma.MediaType{
			"application/json": {Schema: s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[taskBody](), true, "TaskBody")},
		}}},
	}, s.submit)
	jsonRoute(s, keys.TasksWrite, huma.Operation{
		OperationID: "submitTasks", Method: http.MethodPost, Path: "/v1/tasks:batch", Summary: "Submits up to 1,000 tasks", Tags: tags,
		Description: "Up to 8 MiB. The answer has an item for each task, in their order: a refused one does not stop the others.", MaxBodyBytes: mostMany,
	}, s.submitMany)
	jsonRoute(s, keys.TasksRead, huma.Operation{
		OperationID: "getTask", Method: http.MethodGet, Path: "/v1/tasks/{id}", Summary: "Says where a task stands", Tags: tags,
		Description: "`?wait=30` answers when the task ends, or after so many seconds. With If-None-Match it answers when the state or the attempt changes, else 304.",
	}, s.getTask)
	jsonRoute(s, keys.TasksRead, huma.Operation{
		OperationID: "listTasks", Method: http.MethodGet, Path: "/v1/tasks", Summary: "Lists tasks", Tags: tags,
		Description: "Without a state, or with one of a live task: tasks that have not ended. Tasks move while you read, so one may be missing or come twice. " +
			"With `state=completed`, `failed` or `ended`: ended tasks of the last seven days, newest first, up to 100,000. Follow `next` until it is empty; a page may be empty before.",
	}, s.listTasks)
	jsonRoute(s, keys.TasksWrite, huma.Operation{
		OperationID: "cancelTask", Method: http.MethodDelete, Path: "/v1/tasks/{id}", Summary: "Cancels a task", Tags: tags, DefaultStatus: http.StatusAccepted,
		Description: "A waiting task ends at once, a running one before its next call.",
	}, s.cancelTask)
	jsonRoute(s, keys.TasksWrite, huma.Operation{
		OperationID: "retryTask", Method: http.MethodPost, Path: "/v1/tasks/{id}/retry", Summary: "Runs a failed task again, as a new one", Tags: tags, DefaultStatus: http.StatusAccepted,
		Description: "A result is final, so the new task has its own id. A second retry of the same task gives the same new task.",
	}, s.retryTask)
	jsonRoute(s, keys.TasksWrite, huma.Operation{
		OperationID: "copyTask", Method: http.MethodPost, Path: "/v1/tasks/{id}/copy", Summary: "Runs a task again with changes, as a new one", Tags: tags, DefaultStatus: http.StatusAccepted,
		Description: "The body is a JSON merge patch (RFC 7396) of the request that submitted the task; `{}` changes nothing. The metadata of the new task has copied_from. The input of a completed task is not kept, so only tasks that wait, run or failed can be copied.",
	}, s.copyTask)
	s.resultRoute()
}

// taskID is the form of ids. Any other text is the id of no task.
var taskID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// find returns a task of the caller's tenant. The id of another tenant's task is as
// unknown as one that nobody has.
func (s *Server) find(ctx context.Context, client *tasks.Client, id string) (tasks.Info, error) {
	if !taskID.MatchString(id) {
		return tasks.Info{}, tasks.ErrNotFound
	}
	return client.Get(ctx, id)
}

type idInput struct {
	ID string `path:"id" maxLength:"200"`
}

type taskOutput struct {
	Status            int
	Location          string `header:"Location"`
	ETag              string `header:"ETag"`
	Replayed          string `header:"Idempotent-Replayed"`
	PreferenceApplied string `header:"Preference-Applied"`
	Body              taskBody
}
