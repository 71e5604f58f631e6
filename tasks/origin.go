package tasks

// Origin says for whom a task runs. Usage is summed by it. All fields may be empty.
type Origin struct {
	Key      string `json:"key,omitempty"`      // id of the API key that submitted the task, never its secret
	Batch    string `json:"batch,omitempty"`    // id of the batch whose lines the task runs
	Chunk    string `json:"chunk,omitempty"`    // the lines of that batch
	Schedule string `json:"schedule,omitempty"` // name of the schedule that submitted the task
}

// WithAPIKey sets the id of the API key on whose account the task runs. It is not checked.
func WithAPIKey(id string) Option { return func(o *Options) { o.origin.Key = id } }
