package operate

import "github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"

// ListHooks lists the states of the endpoints that webhooks are sent to.
func (o *Operator) ListHooks() []hooks.Status {
	if o.Hooks == nil {
		return []hooks.Status{}
	}
	return o.Hooks.Status()
}

// HookDeadLetters lists at most limit dead letters of an endpoint with a sequence
// above after, in order. It fails with [ErrNoHooks] or [hooks.ErrUnknownEndpoint].
func (o *Operator) HookDeadLetters(name string, after uint64, limit int) ([]hooks.DeadLetter, error) {
	if o.Hooks == nil {
		return nil, ErrNoHooks
	}
	return o.Hooks.DeadLetters(name, after, limit)
}

// RedriveHook sends the dead letter of an event again, or all of the endpoint's if
// event is 0, and returns how many. See [hooks.Hooks.Redrive].
func (o *Operator) RedriveHook(name string, event uint64) (int, error) {
	if o.Hooks == nil {
		return 0, ErrNoHooks
	}
	return o.Hooks.Redrive(name, event)
}

// EnableHook resumes a disabled endpoint. See [hooks.Hooks.Enable].
func (o *Operator) EnableHook(name string) error {
	if o.Hooks == nil {
		return ErrNoHooks
	}
	return o.Hooks.Enable(name)
}
