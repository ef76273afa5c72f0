package operate

import (
	"context"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
)

// ListConsumers lists the programs that read events by NATS.
func (o *Operator) ListConsumers(ctx context.Context) ([]consumers.Consumer, error) {
	return o.Consumers.List(ctx)
}

// AddConsumer lets a program read events by NATS. What it returns has the program's
// secret, which is kept nowhere.
func (o *Operator) AddConsumer(ctx context.Context, s consumers.Spec) (consumers.Added, error) {
	return o.Consumers.Add(ctx, s)
}

// RemoveConsumer ends a consumer and cuts its program off.
func (o *Operator) RemoveConsumer(ctx context.Context, name string) error {
	return o.Consumers.Remove(ctx, name)
}
