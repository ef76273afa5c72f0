package operate

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// Erasure is a recorded erasure, and who has acknowledged it.
type Erasure struct {
	Seq  uint64        `json:"seq"`
	Page domain.PageID `json:"page"`
	// Contact is the contact's [domain.ContactHash].
	Contact string    `json:"contact_hash"`
	At      time.Time `json:"at"`
	// Events is the number of events that this record lists. A long erasure has several
	// records.
	Events int `json:"events"`
	// Acknowledged are the consumers that have acknowledged the event and the webhooks
	// that have answered it with 2xx. Waiting are those that have not yet.
	Acknowledged []string `json:"acknowledged,omitempty"`
	Waiting      []string `json:"waiting,omitempty"`
}

// receiver is who gets contact.erased.
type receiver struct {
	name  string
	gets  func(streams.Stored) (bool, error)
	acked func(seq uint64) (bool, error)
}

// Erasures returns the recorded erasures of a page, or of all if page is empty, in order.
func (o *Operator) Erasures(ctx context.Context, page domain.PageID) ([]Erasure, error) {
	list, err := o.Consumers.List(ctx)
	if err != nil {
		return nil, err
	}
	var receivers []receiver
	for _, c := range list {
		receivers = append(receivers, consumerReceiver(c))
	}
	if o.Hooks != nil {
		for _, s := range o.Hooks.Status() {
			receivers = append(receivers, o.hookReceiver(ctx, s))
		}
	}
	out := []Erasure{}
	err = o.eachErasure(ctx, page, func(e streams.Stored) error {
		one := Erasure{
			Seq: e.Seq, Page: e.Page, Contact: e.Data.Erasure.Contact, At: e.At, Events: len(e.Data.Erasure.Events),
		}
		for _, r := range receivers {
			gets, err := r.gets(e)
			if err != nil {
				return err
			}
			if !gets {
				continue
			}
			acked, err := r.acked(e.Seq)
			switch {
			case err != nil:
				return err
			case acked:
				one.Acknowledged = append(one.Acknowledged, r.name)
			default:
				one.Waiting = append(one.Waiting, r.name)
			}
		}
		out = append(out, one)
		return nil
	})
	return out, err
}

// eachErasure calls f with the records of erasures of a page, or of all if page is empty, in order.
func (o *Operator) eachErasure(ctx context.Context, page domain.PageID, f func(record streams.Stored) error) error {
	_, err := streams.Read(ctx, o.JS, streams.ReadOptions{
		Stream: o.Stream, Filters: streams.Filter(page, domain.ContactErased),
		Malformed: func(uint64, error) error { return nil },
	}, func(e streams.Stored) error {
		if e.Data.Erasure == nil {
			return nil
		}
		return f(e)
	})
	return err
}

func consumerReceiver(c consumers.Consumer) receiver {
	return receiver{
		name: c.Name,
		gets: func(e streams.Stored) (bool, error) {
			return c.All || slices.Contains(c.Pages, e.Page) || slices.Contains(c.Known, e.Page), nil
		},
		acked: func(seq uint64) (bool, error) { return c.Seq >= seq || c.Lag == 0 && c.Filled >= seq, nil },
	}
}

// hookReceiver returns the receiver of a webhook: what is finished was answered with 2xx, or
// is a dead letter.
func (o *Operator) hookReceiver(ctx context.Context, s hooks.Status) receiver {
	return receiver{
		name: s.Name,
		gets: func(e streams.Stored) (bool, error) { return o.Hooks.Gets(ctx, s.Name, e) },
		acked: func(seq uint64) (bool, error) {
			if s.Position < seq {
				return false, nil
			}
			list, err := o.Hooks.DeadLetters(s.Name, seq-1, 1)
			if errors.Is(err, hooks.ErrUnknownEndpoint) {
				return false, nil
			}
			return len(list) == 0 || list[0].Seq != seq, err
		},
	}
}
