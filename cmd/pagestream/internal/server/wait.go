package server

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/internal/backoff"
)

// Bounds of a start that waits for what it needs.
const (
	waitMin = 250 * time.Millisecond
	waitMax = 15 * time.Second
	// tryTimeout bounds one attempt.
	tryTimeout = 10 * time.Second
)

// await calls do until it succeeds. While the program starts, an error that may pass by itself, as when NATS is
// started at the same time, is logged and do is called again after a growing pause, until the context ends.
// Other errors are returned, and in an offline command all are.
func (p *Program) await(ctx context.Context, what string, do func(context.Context) error) error {
	pause := backoff.Backoff{Min: waitMin, Max: waitMax}
	began := time.Now()
	for waits := false; ; waits = true {
		try, cancel := context.WithTimeout(ctx, tryTimeout)
		err := do(try)
		cancel()
		switch {
		case err == nil && waits:
			p.log.Info("the wait is over", "for", what, "took", time.Since(began).Round(time.Millisecond))
			return nil
		case err == nil, !p.waits, !passing(err):
			return err
		}
		p.log.Warn("waiting for "+what, "url", p.cfg.NATS.URL, "err", err)
		if pause.Wait(ctx) != nil {
			return err
		}
	}
}

// notYet are the error codes of a NATS server, besides those with status 503, that may pass by themselves: there
// are not enough servers for the replicas yet.
var notYet = []jetstream.ErrorCode{10005}

// passing reports whether an error may pass by itself: NATS can't be reached, or JetStream does not answer or says
// that it is not available.
func passing(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.ErrorCode != jetstream.JSErrCodeJetStreamNotEnabledForAccount &&
			(api.Code == http.StatusServiceUnavailable || slices.Contains(notYet, api.ErrorCode))
	}
	for _, passes := range []error{
		nats.ErrNoServers, nats.ErrTimeout, nats.ErrNoResponders, nats.ErrDisconnected, context.DeadlineExceeded,
		jetstream.ErrJetStreamNotEnabled,
	} {
		if errors.Is(err, passes) {
			return true
		}
	}
	var unreachable *net.OpError
	return errors.As(err, &unreachable)
}
