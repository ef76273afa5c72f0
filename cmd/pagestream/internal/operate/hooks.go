package operate

import "github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"

// ListHooks lists the endpoints that webhooks are sent to.
func (o *Operator) ListHooks() []hooks.Status {
	if o.Hooks == nil {
		return []hooks.Status{}
	}
	return o.Hooks.Status()
}

// HookDeadLetters lists at most limit of the events that an endpoint did not take,
// in order from the sequence after on.
func (o *Operator) HookDeadLetters(name string, after uint64, limit int) ([]hooks.DeadLetter, error) {
	if o.Hooks == nil {
		return nil, ErrNoHooks
	}
	return o.Hooks.DeadLetters(name, after, limit)
}

// RedriveHook sends an endpoint's dead letters again, the one of an event or, for 0,
// all. It returns how many.
func (o *Operator) RedriveHook(name string, event uint64) (int, error) {
	if o.Hooks == nil {
		return 0, ErrNoHooks
	}
	return o.Hooks.Redrive(name, event)
}

// EnableHook lets an endpoint that was disabled go on.
func (o *Operator) EnableHook(name string) error {
	if o.Hooks == nil {
		return ErrNoHooks
	}
	return o.Hooks.Enable(name)
}
