package tasks

// CheckPayload reports the problems for which Enqueue would refuse a parsed payload and
// its model; nil when there are none. Unlike Check it leaves out the options and builds
// no task, so that it is cheap enough for each line of a large file. An empty model means
// the kind's default.
func (c *Client) CheckPayload(p Payload, model string) error {
	if c.invalid != nil {
		return c.invalid
	}
	spec, ok := SpecOf(p.Kind())
	if !ok {
		return unknownKind(p.Kind())
	}
	_, _, problems, err := c.checkPayload(p, spec, model)
	if err != nil {
		return err
	}
	return problems.err()
}
