package streams

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
)

// Append stores one event that pagestream itself makes about a page, on condition that the page's
// last event of the same noun (the part of the type before the dot) is still the one at sequence
// expectedLast, or that there is none if expectedLast is 0. [ErrConflict] is returned when it is
// not: the caller must read again and decide again. After [ErrUnavailable] the event may have been
// stored; then a second call with the same expectedLast returns ErrConflict.
//
// Append does not look the id up in the index of old ids. Without a journal it does not go through the committer
// either, so it does not wait for Publish calls.
func (p *Publisher) Append(ctx context.Context, e domain.Event, expectedLast uint64) (r Receipt, err error) {
	if p.journal != nil {
		return p.appendToJournal(ctx, e, expectedLast)
	}
	m, _, err := p.encode(&e)
	if err != nil {
		return Receipt{}, err
	}
	if p.opts.Judge != nil && e.Type.Noun() == domain.PageConnected.Noun() {
		p.pageOrder.Lock()
		defer p.pageOrder.Unlock()
		defer func() { p.pageOrder.appended(r.Seq, err) }()
	}
	ack, err := p.js.PublishMsg(ctx, m, jetstream.WithExpectStream(p.opts.Stream),
		jetstream.WithExpectLastSequenceForSubject(expectedLast, nounOf(m.Subject)+".*"))
	if err != nil {
		var api *jetstream.APIError
		if errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
			api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant) {
			return Receipt{}, fmt.Errorf("append %s: %w", e.Type, ErrConflict)
		}
		return Receipt{}, fmt.Errorf("append %s: %w: %w", e.Type, ErrUnavailable, err)
	}
	if ack.Duplicate {
		return Receipt{Seq: ack.Sequence, Duplicate: ByWindow}, nil
	}
	return Receipt{Seq: ack.Sequence}, nil
}

// LastOf returns the sequence of the page's last event that has the same noun as t, or 0 if there
// is none. It is the expectedLast argument of [Publisher.Append].
func (p *Publisher) LastOf(ctx context.Context, page domain.PageID, t domain.Type) (uint64, error) {
	noun := nounOf(Subject(page, t))
	if p.journal != nil {
		if last := p.journal.lastOf(noun); last > 0 {
			return last, nil
		}
	}
	return p.storedLast(ctx, noun)
}

// storedLast returns the sequence of the stream's last event with a page and noun, 0 if there is none.
func (p *Publisher) storedLast(ctx context.Context, noun string) (uint64, error) {
	st, err := p.js.Stream(ctx, p.opts.Stream)
	if err != nil {
		return 0, fmt.Errorf("get stream: %w: %w", ErrUnavailable, err)
	}
	m, err := st.GetLastMsgForSubject(ctx, noun+".*")
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("find last event of %s: %w: %w", noun, ErrUnavailable, err)
	}
	return m.Sequence, nil
}
