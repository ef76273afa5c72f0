package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/backfill"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/erase"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/login"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/outbound"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/pages"
)

// actions is the API's view of what an operator may ask for.
type actions struct {
	p      *Program
	logins *logins
	sender *outbound.Sender
	filler *backfill.Filler
}

func newActions(p *Program) *actions {
	return &actions{
		p: p, logins: &logins{},
		sender: outbound.New(outbound.Options{Pages: senders{p.tokens, p.apps}, Graph: senders{p.tokens, p.apps}, Publisher: p.publisher}),
		filler: backfill.New(backfill.Options{
			Pages: fillers{p.tokens, p.apps}, Graph: fillers{p.tokens, p.apps}, Publisher: p.publisher,
			Erased: func(page domain.PageID, contact domain.ContactID) (time.Time, bool, error) {
				return conversations.ErasedAt(p.model("conversations"), page, contact)
			},
		}),
	}
}

// Invite makes a link for the browser's flow.
func (a *actions) Invite(_ context.Context, r api.InviteRequest) (api.Invite, error) {
	if _, name, ok := a.p.apps.client(r.App); !ok {
		return api.Invite{}, fmt.Errorf("%w: app %q: %w", api.ErrRefused, name, connect.ErrUnknownApp)
	}
	url, expires, err := a.p.login.Invite(r.App, r.Company, r.Back, r.Fields)
	if errors.Is(err, login.ErrNoBaseURL) || errors.Is(err, login.ErrBack) {
		err = fmt.Errorf("%w: %w", api.ErrRefused, err)
	}
	return api.Invite{URL: url, Expires: expires}, err
}

// Login looks at a consent and keeps it for a while.
func (a *actions) Login(ctx context.Context, r api.LoginRequest) (api.Login, error) {
	g, err := a.p.connector.Grant(ctx, r.App, r.UserToken)
	if err != nil {
		return api.Login{}, refusedAction("look at the login", err)
	}
	out := api.Login{
		ID: a.logins.put(g, time.Now()), App: g.App, Admin: g.Admin, MissingScopes: g.MissingScopes,
		Pages: []api.LoginPage{}, Gone: []api.LoginPage{},
	}
	for _, p := range g.Pages {
		out.Pages = append(out.Pages, api.LoginPage{
			Page: p.Page, Name: p.Name, Tasks: p.Tasks, State: string(p.Standing), Company: p.Company, Lacking: p.Lacking,
		})
	}
	for _, p := range g.Gone {
		out.Gone = append(out.Gone, api.LoginPage{Page: p.Page, Name: p.Name})
	}
	return out, nil
}

// Connect connects chosen pages of a login that was looked at.
func (a *actions) Connect(ctx context.Context, id string, c api.LoginChoice, progress func(api.SubscriptionOutcome)) (api.LoginResult, error) {
	g, ok := a.logins.get(id, time.Now())
	if !ok {
		return api.LoginResult{}, fmt.Errorf("%w: there is no such login, or it is over half an hour old; look at it anew", api.ErrRefused)
	}
	chosen := c.Pages
	if c.All {
		chosen = nil
		for _, p := range g.Pages {
			if !p.Lacking && p.Standing != connect.StandingForeign {
				chosen = append(chosen, p.Page)
			}
		}
	}
	result := api.LoginResult{Chosen: len(chosen)}
	outcomes, err := a.p.connector.Apply(ctx, g, connect.Choice{Pages: chosen, Company: c.Company, Fields: c.Fields}, func(o connect.Outcome) {
		if o.State == connect.Confirmed {
			result.Confirmed++
		}
		out, _ := outcome(o, nil)
		progress(out)
	})
	var last uint64
	for _, o := range outcomes {
		last = max(last, o.Seq)
	}
	newKnownPages(a.p).settle(ctx, last)
	return result, refusedAction("connect pages", err)
}

// Send sends as a page.
func (a *actions) Send(ctx context.Context, page domain.PageID, m api.MessageRequest) (api.MessageSent, error) {
	sent, err := a.sender.Send(ctx, outbound.Request{
		Page: page, Contact: m.Contact, Recipient: m.Recipient, Message: m.Message,
		MessagingType: m.MessagingType, Tag: m.Tag, SenderAction: m.SenderAction,
	})
	out := api.MessageSent{RecipientID: sent.RecipientID, MessageID: sent.MID, Seq: sent.Seq}
	switch {
	case errors.Is(err, outbound.ErrNotRecorded):
		out.Warning = err.Error()
		return out, nil // it was sent: nobody may send it again
	case errors.Is(err, outbound.ErrUnsure) && !errors.Is(err, outbound.ErrRequest):
		return out, fmt.Errorf("%w: %w", api.ErrUnsure, err)
	}
	return out, refusedAction("send as page "+string(page), err)
}

// Backfill fills a gap.
func (a *actions) Backfill(ctx context.Context, page domain.PageID, since, until time.Time, progress func(any)) (any, error) {
	sum, err := a.filler.Run(ctx, backfill.Request{Page: page, Since: since, Until: until}, func(p backfill.Progress) { progress(p) })
	return sum, refusedAction("backfill page "+string(page), err)
}

// eraseWait is how long an answer waits for the deletion, which goes on without
// it: less than a client does.
const eraseWait = 50 * time.Second

// erase removes a contact.
func (p *Program) erase(ctx context.Context, page domain.PageID, contact domain.ContactID) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, eraseWait)
	defer cancel()
	out, err := p.eraser.Erase(ctx, page, contact)
	if errors.Is(err, erase.ErrUnfinished) || errors.Is(err, erase.ErrBusy) || errors.Is(err, erase.ErrRequest) {
		err = fmt.Errorf("%w: %w", api.ErrRefused, err)
	}
	return out, err
}

// Reconcile says what the loop knows.
func (a *actions) Reconcile() any { return a.p.reconciler.Status() }

// KeyIDs lists the keys, the one in use first.
func (a *actions) KeyIDs() []string {
	ids := a.p.keys.KeyIDs()
	slices.Reverse(ids)
	return ids
}

// Rebuild builds a read model anew.
func (a *actions) Rebuild(ctx context.Context, name string, progress func(projections.Rebuilding)) (projections.Rebuilt, error) {
	r, err := a.runner(name)
	if err != nil {
		return projections.Rebuilt{}, err
	}
	out, err := r.Rebuild(ctx, progress)
	if err == nil && out.Was != "" && !out.Equal {
		a.p.log.Warn("rebuilt read model differs from the one before, which was wrong", "projection", name, "seq", out.VerifiedSeq)
	}
	return out, err
}

// runner finds a read model by a name that somebody gave.
func (a *actions) runner(name string) (*projections.Runner, error) {
	for _, r := range a.p.runners {
		if r.Name() == name {
			return r, nil
		}
	}
	return nil, fmt.Errorf("projection %q: %w", name, api.ErrUnknown)
}

// Verify compares a read model with a replay.
func (a *actions) Verify(ctx context.Context, name string, progress func(projections.Rebuilding)) (projections.Verified, error) {
	r, err := a.runner(name)
	if err != nil {
		return projections.Verified{}, err
	}
	return r.Verify(ctx, progress)
}

// Explain says which events made a row.
func (a *actions) Explain(ctx context.Context, name, bucket string, key []byte, progress func(projections.Rebuilding)) (projections.Trace, error) {
	r, err := a.runner(name)
	if err != nil {
		return projections.Trace{}, err
	}
	return r.Explain(ctx, bucket, key, progress)
}

// RotateKey makes a key and seals all tokens with it. What fails stays under its
// old key, which stays in the ring.
func (a *actions) RotateKey(ctx context.Context, progress func(any)) (api.KeyRotation, error) {
	if err := a.p.keys.RotateFile(a.p.cfg.Keys.File); err != nil {
		return api.KeyRotation{}, fmt.Errorf("rotate key: %w", err)
	}
	out := api.KeyRotation{Key: a.p.keys.Primary()}
	list, err := newKnownPages(a.p).connected(ctx, func(pages.Page) bool { return true })
	if err != nil {
		return out, fmt.Errorf("list pages: %w", err)
	}
	for _, page := range list {
		changed, err := a.p.connector.Reseal(ctx, page)
		if errors.Is(err, connect.ErrChanged) { // once more: somebody was quicker
			changed, err = a.p.connector.Reseal(ctx, page)
		}
		switch {
		case err != nil:
			a.p.log.Warn("page's tokens can't be sealed with the new key", "page", page, "err", err)
			out.Failed = append(out.Failed, page)
		case changed:
			out.Resealed++
		}
		progress(out)
	}
	return out, nil
}

// refusedAction says an error in the API's terms.
func refusedAction(doing string, err error) error {
	var g *graph.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &g):
		return &api.GraphError{
			Code: g.Code, Subcode: g.Subcode, Words: g.Words(), FBTrace: g.FBTrace, RetryAfter: g.RetryAfter(), Doing: doing,
		}
	case errors.Is(err, outbound.ErrNotConnected), errors.Is(err, backfill.ErrNotConnected), errors.Is(err, connect.ErrNotConnected):
		return fmt.Errorf("%w: %w", api.ErrNotConnected, err)
	case errors.Is(err, outbound.ErrRequest), errors.Is(err, outbound.ErrTokenDead),
		errors.Is(err, backfill.ErrRequest), errors.Is(err, backfill.ErrTokenDead), errors.Is(err, backfill.ErrRunning),
		errors.Is(err, connect.ErrRequest), errors.Is(err, connect.ErrUnknownApp), errors.Is(err, connect.ErrUserToken):
		return fmt.Errorf("%w: %w", api.ErrRefused, err)
	}
	return err
}

// Bounds of the logins that are kept.
const (
	loginLife = 30 * time.Minute
	maxLogins = 100
)

// logins are consents that were looked at and may be chosen from. They have
// tokens in them and are in memory only.
type logins struct {
	mu sync.Mutex
	of map[string]keptGrant
}

type keptGrant struct {
	connect.Grant
	until time.Time
}

// put keeps a grant and returns the id that it is found by. Beyond the bound the
// oldest falls away.
func (l *logins) put(g connect.Grant, now time.Time) string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	id := hex.EncodeToString(b[:])
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil {
		l.of = make(map[string]keptGrant)
	}
	oldest := ""
	for id, k := range l.of {
		if !now.Before(k.until) {
			delete(l.of, id)
		} else if oldest == "" || k.until.Before(l.of[oldest].until) {
			oldest = id
		}
	}
	if len(l.of) >= maxLogins {
		delete(l.of, oldest)
	}
	l.of[id] = keptGrant{g, now.Add(loginLife)}
	return id
}

func (l *logins) get(id string, now time.Time) (connect.Grant, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k, ok := l.of[id]
	return k.Grant, ok && now.Before(k.until)
}
