package outbound

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/embedded"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// rig is a real stream with a publisher and the read model of conversations.
type rig struct {
	*streamstest.Server
	publisher *streams.Publisher
	model     *projections.Runner
}

func newRig(t *testing.T) *rig {
	t.Helper()
	server := streamstest.Run(t, func(o *embedded.Options) { o.Sync = embedded.SyncInterval })
	id := server.Stream(t, streams.Spec{})
	publisher, err := streams.NewPublisher(server.JS, streams.PublisherOptions{})
	require.NoError(t, err)
	model, err := projections.NewRunner(conversations.New(), projections.RunnerOptions{
		Dir: t.TempDir(), JS: server.JS, Identity: id, Pace: -1, Store: store.Options{NoSync: true},
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { assert.NoError(t, model.Run(ctx)) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		assert.NoError(t, model.Close())
		end, stop := limited()
		defer stop()
		assert.NoError(t, publisher.Close(end))
	})
	return &rig{server, publisher, model}
}

func limited() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), streamstest.Limit)
}

// publish stores events and waits until the read model has them.
func (r *rig) publish(t *testing.T, events ...domain.Event) []streams.Receipt {
	t.Helper()
	ctx, cancel := limited()
	defer cancel()
	receipts, err := r.publisher.Publish(ctx, events)
	require.NoError(t, err)
	for _, one := range receipts {
		require.NoError(t, r.model.WaitFor(ctx, one.Seq))
	}
	return receipts
}

// all returns what the stream holds, once the read model has it.
func (r *rig) all(t *testing.T) (list []streams.Stored) {
	t.Helper()
	ctx, cancel := limited()
	defer cancel()
	last, err := streams.Read(ctx, r.JS, streams.ReadOptions{}, func(e streams.Stored) error {
		list = append(list, e)
		return nil
	})
	require.NoError(t, err)
	require.NoError(t, r.model.WaitFor(ctx, last))
	return list
}
