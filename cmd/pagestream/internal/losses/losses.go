// Package losses knows which events the stream has lost, because blocks of its files are gone or damaged, and
// keeps what read models still have of them from being replaced.
package losses

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/streams"
)

// ErrLost is returned when something would throw away what read models have of lost events.
var ErrLost = errors.New("the stream has lost events that a rebuilt read model would not have; " +
	"type: pagestream recover")

// checkTimeout bounds one check. With millions of erased events it takes some seconds. examineTimeout is for all files
// of the stream.
const (
	checkTimeout   = time.Minute
	examineTimeout = 10 * time.Minute
)

// Options configure [Losses]. JS and Stream are required.
type Options struct {
	JS     jetstream.JetStream
	Stream string
	// Examine, if not nil, reads the stream's files and removes from them what is damaged, so that it counts as lost.
	Examine func(context.Context) error
	Logger  *slog.Logger
}

// Losses knows the lost events of a stream. It is safe for concurrent use. Create it with [New].
type Losses struct {
	opts Options

	mu    sync.Mutex
	found streams.Losses // at the last check
}

// New returns the losses of a stream, which are not known before the first Check.
func New(o Options) *Losses {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Losses{opts: o}
}

// Check looks for lost events, and logs them if there are more or less than before. It changes nothing.
func (l *Losses) Check(ctx context.Context) (streams.Losses, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	found, err := streams.Lost(ctx, l.opts.JS, l.opts.Stream)
	if err != nil {
		return found, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case found.Events == l.found.Events:
	case found.Events > 0:
		l.opts.Logger.Error("the stream has lost events, which no erasure accounts for; nothing is thrown away, and no "+
			"read model is rebuilt until the loss is accepted; type: pagestream recover", "lost", found.String())
	default:
		l.opts.Logger.Info("the stream has no lost events any more", "accepted", found.Accepted)
	}
	l.found = found
	return found, nil
}

// Examine does what Check does, after it has looked for damage in the stream's files.
func (l *Losses) Examine(ctx context.Context) (streams.Losses, error) {
	if l.opts.Examine != nil {
		limited, cancel := context.WithTimeout(ctx, examineTimeout)
		defer cancel()
		if err := l.opts.Examine(limited); err != nil {
			return l.Found(), err
		}
	}
	return l.Check(ctx)
}

// Found returns the lost events of the last check.
func (l *Losses) Found() streams.Losses {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.found
}

// Refuse checks again, and examines the stream if its events give other rows than there are. It fails with [ErrLost] if
// there are lost events. It is projections.RunnerOptions.Refuse.
func (l *Losses) Refuse(differs bool) error {
	check := l.Check
	if differs {
		check = l.Examine
	}
	found, err := check(context.Background())
	if err == nil && found.Events > 0 {
		err = fmt.Errorf("%w (%s)", ErrLost, found)
	}
	return err
}

// Accept records that what is lost now is lost for good, by whom, and returns it. Read models may be rebuilt
// then. It is idempotent.
func (l *Losses) Accept(ctx context.Context, by string) (streams.Losses, error) {
	found, err := l.Examine(ctx)
	if err != nil {
		return found, err
	}
	if err := streams.AcceptLoss(ctx, l.opts.JS, l.opts.Stream, by, found); err != nil {
		return found, err
	}
	_, err = l.Check(ctx)
	return found, err
}
