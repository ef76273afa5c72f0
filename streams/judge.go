package streams

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
)

// Claim is what an app says of a page: that this is one of its events.
type Claim struct {
	Page domain.PageID
	// App is the app's id at Meta.
	App string
	// Time is the event's own time; zero where it has none.
	Time time.Time
}

// claimOf returns the claim of an event that a webhook delivered. It returns nil for
// events that pagestream made itself, that an operator adopted, or that belong to no page.
func claimOf(e domain.Event) *Claim {
	d := &e.Data
	if d.Source != domain.SourceWebhook || d.Test || d.Adopted > 0 || e.Page == "" || e.Page == domain.NoPage {
		return nil
	}
	return &Claim{Page: e.Page, App: d.AppID, Time: e.Time}
}

// Standing says what an app's event is to the page.
type Standing int

// The standings.
const (
	// Own is an event of the app that the page is connected through. The same item may
	// have been stored before the page was connected.
	Own Standing = iota
	// Unowned is an event of a page that no configured app has connected.
	Unowned
	// Released is an event of such a page by the app that it was connected through last.
	// The same item may have been stored while it was.
	Released
	// Foreign is an event of a page that is connected through another app.
	Foreign
)

// Judge decides whose events are whose.
type Judge interface {
	// Judge returns the standing of each claim, by the connections that the events up to
	// the sequence after have made. It is called by the committer, so it must be quick,
	// and end in bounded time. If it fails, the events are refused as unavailable.
	Judge(ctx context.Context, claims []Claim, after uint64) ([]Standing, error)
}

// judgeTimeout bounds one call of [Judge].
const judgeTimeout = 2 * time.Second

// judge sets the ids and types of the items by the standing of their apps.
func (p *Publisher) judge(items []*item) error {
	var claims []Claim
	var judged []*item
	for _, it := range items {
		if c := it.claim; c != nil {
			claims, judged = append(claims, *c), append(judged, it)
		}
	}
	if len(claims) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(p.abandoned, judgeTimeout)
	defer cancel()
	after, err := p.lastPageEvent(ctx)
	if err != nil {
		return err
	}
	standings, err := p.opts.Judge.Judge(ctx, claims, after)
	if err == nil && len(standings) != len(claims) {
		err = fmt.Errorf("%d answers for %d claims", len(standings), len(claims))
	}
	if err != nil {
		return err
	}
	for i, it := range judged {
		app, id := claims[i].App, it.id
		switch standings[i] {
		case Own:
			it.also = []string{domain.UnownedID(app, id)}
		case Unowned:
			it.setID(domain.UnownedID(app, id))
		case Released:
			it.also = []string{id}
			it.setID(domain.UnownedID(app, id))
		case Foreign:
			it.setForeign(domain.ForeignID(app, id), claims[i].Page)
		}
	}
	return nil
}

// setID gives the item another id.
func (it *item) setID(id string) {
	it.id, it.event = id, nil
	for _, h := range []string{HeaderID, HeaderMsgID, HeaderWatermillID} {
		it.msg.Header.Set(h, id)
	}
	it.grown = it.msg.Size() - it.size
}

// setForeign makes the item an event of type [domain.ForeignReceived].
func (it *item) setForeign(id string, page domain.PageID) {
	h := it.msg.Header
	h[HeaderOriginal], h[HeaderOriginalID] = h[HeaderType], []string{it.id}
	h[HeaderType] = []string{typePrefix + string(domain.ForeignReceived) + typeSuffix}
	it.msg.Subject = Subject(page, domain.ForeignReceived)
	it.foreign = true
	it.setID(id)
}

// pageOrder keeps the order between the events that connect pages and the events that
// are judged by the connections: the first are appended under the lock, the others are
// judged and stored under the read lock.
type pageOrder struct {
	sync.RWMutex
	// last is the last event of noun page; it is unknown at first, and after an append
	// without an answer.
	last  uint64
	known bool
}

// appended records the result of an append. The caller holds the lock.
func (o *pageOrder) appended(seq uint64, err error) {
	switch {
	case err == nil:
		o.last = max(o.last, seq)
	case !errors.Is(err, ErrConflict):
		o.known = false
	}
}

// lastPageEvent returns the sequence of the last event of noun page, of any page; 0 if
// there is none. The caller holds the read lock.
func (p *Publisher) lastPageEvent(ctx context.Context) (uint64, error) {
	// Only the committer calls this, and Append is locked out: the fields may be written.
	o := &p.pageOrder
	if o.known && !p.opts.Shared {
		return o.last, nil
	}
	st, err := p.js.Stream(ctx, p.opts.Stream)
	if err != nil {
		return 0, fmt.Errorf("get stream: %w", err)
	}
	m, err := st.GetLastMsgForSubject(ctx, SubjectPrefix+".*."+domain.PageConnected.Noun()+".*")
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
	case err != nil:
		return 0, fmt.Errorf("find the last event of noun page: %w", err)
	default:
		o.last = max(o.last, m.Sequence)
	}
	o.known = true
	return o.last, nil
}
