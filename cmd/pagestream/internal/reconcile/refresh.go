package reconcile

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
)

// refreshes returns the reactor that handles refreshed tokens.
func (r *Reconciler) refreshes() *streams.Reactor {
	return streams.NewReactor(streams.ReactorOptions{
		Connect: r.opts.Connect, Domain: r.opts.JS.Options().Domain, Stream: streams.Name, Durable: refreshDurable,
		Filter:  "pagestream.*." + string(domain.PageTokenRefreshed),
		FromNow: true, // the loop checks pages with older refreshes anyway
		Timeout: r.opts.Timeout + r.opts.Settle, Handle: streams.OnEvent(r.refreshed),
		Parking: r.opts.Parking, Logger: r.opts.Logger,
	})
}

// errBusy is returned when another goroutine works on the page; the event is
// redelivered.
var errBusy = errors.New("page is being worked on")

// refreshed subscribes a page again after its token was refreshed, unless the
// connector that refreshed it does so.
func (r *Reconciler) refreshed(ctx context.Context, e streams.Stored) error {
	if c := e.Data.Connection; c == nil || c.Resealed || e.Page == "" {
		return nil
	}
	done, err := r.waitForConnector(ctx, e)
	if err != nil || done {
		return err
	}
	v, ok := r.begin(e.Page, true)
	if !ok {
		return errBusy
	}
	defer v.end()
	v.e.hold, v.e.status.NextTry = time.Time{}, time.Time{}
	ctx, cancel := context.WithTimeout(ctx, r.opts.Timeout)
	defer cancel()
	v.resubscribe(ctx, v.e.status.AppMissing)
	if s := v.e.status; s.State == meta.LoopUnreachable || s.State == meta.LoopThrottled {
		return fmt.Errorf("subscribe page %s again: %s", e.Page, s.State)
	}
	return nil
}

// waitForConnector waits for at most Settle until the connector that refreshed the
// token has subscribed the page, and reports whether there is nothing left to do.
func (r *Reconciler) waitForConnector(ctx context.Context, e streams.Stored) (bool, error) {
	wait := min(max(0, r.opts.Settle-r.opts.Now().Sub(e.At)), r.opts.Settle)
	over := time.After(wait)
	tick := time.NewTicker(max(10*time.Millisecond, r.opts.Settle/50))
	defer tick.Stop()
	for last := wait == 0; ; {
		done, err := r.isResubscribed(ctx, e)
		if err != nil || done || last {
			return done, err
		}
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("wait for subscription: %w", ctx.Err())
		case <-over:
			last = true
		case <-tick.C:
		}
	}
}

// isResubscribed reports whether nothing is left to do after the refresh: there is an
// answer to a later subscribe call, or the page is not connected or has no valid token.
func (r *Reconciler) isResubscribed(ctx context.Context, e streams.Stored) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	for _, m := range []projections.Reader{r.opts.Pages, r.opts.Subscriptions} {
		if err := m.WaitFor(ctx, e.Seq); err != nil {
			return false, fmt.Errorf("wait for read model: %w", err)
		}
	}
	p, err := pages.Get(r.opts.Pages, e.Page)
	if errors.Is(err, pages.ErrNotFound) || err == nil && (p.State != pages.Connected || p.Token != pages.TokenValid) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("read page: %w", err)
	}
	sub, err := subscriptions.Get(r.opts.Subscriptions, e.Page, p.App)
	if errors.Is(err, subscriptions.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read subscription: %w", err)
	}
	return sub.LastSeq > e.Seq && sub.State != subscriptions.Requested, nil
}
