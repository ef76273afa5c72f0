package operate

import (
	"context"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
)

// ListConsumers lists the consumers of external programs that read events over NATS.
func (o *Operator) ListConsumers(ctx context.Context) ([]consumers.Consumer, error) {
	return o.Consumers.List(ctx)
}

// AddConsumer creates a consumer for a program that reads events over NATS. The
// result contains the program's secret, which is not stored. It also fails with
// [doctor.ErrUnknownPage] or [ErrUnknownCompany].
func (o *Operator) AddConsumer(ctx context.Context, s consumers.Spec) (out consumers.Added, err error) {
	if err := o.CheckPages(ctx, s.Pages); err != nil {
		return out, err
	}
	if s.Company != "" {
		if s.Company, err = o.knownCompany(ctx, s.Company); err != nil {
			return out, err
		}
	}
	return o.Consumers.Add(ctx, s)
}

// RewindConsumer makes a consumer's program get the events from the target on again. It
// also fails with [consumers.ErrUnknown] or [consumers.ErrRewind].
func (o *Operator) RewindConsumer(ctx context.Context, name string, to consumers.Target) (consumers.Consumer, error) {
	return o.Consumers.Rewind(ctx, name, to)
}

// RemoveConsumer deletes a consumer and disconnects its program.
func (o *Operator) RemoveConsumer(ctx context.Context, name string) error {
	return o.Consumers.Remove(ctx, name)
}
