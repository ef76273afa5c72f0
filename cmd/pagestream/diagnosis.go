package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/doctor"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

const (
	// examineTimeout bounds the questions about one page, or one app.
	examineTimeout = 15 * time.Second
	// examineParallel is how many pages are asked about at once.
	examineParallel = 4
)

// examine gathers what is known and lets the doctor speak. No pages means every
// connected one. It changes nothing but that a dead token is put on record.
func (p *Program) examine(ctx context.Context, ids []domain.PageID) (doctor.Report, error) {
	known := newKnownPages(p)
	connected, err := known.connected(ctx, func(pages.Page) bool { return true })
	if err != nil {
		return doctor.Report{}, fmt.Errorf("list pages: %w", err)
	}
	if len(ids) == 0 {
		ids = connected
	}
	install := p.installFacts(ctx)
	list := make([]doctor.Page, len(ids))
	errs := make([]error, len(ids))
	var asking sync.WaitGroup
	slots := make(chan struct{}, examineParallel)
	for i, id := range ids {
		slots <- struct{}{}
		asking.Go(func() {
			defer func() { <-slots }()
			list[i], errs[i] = p.pageFacts(ctx, id)
		})
	}
	asking.Wait()
	if err := errors.Join(errs...); err != nil {
		return doctor.Report{}, err
	}
	return doctor.Examine(install, list), nil
}

func (p *Program) installFacts(ctx context.Context) doctor.Install {
	now := time.Now()
	hour := p.recent.sum(now, doctor.SlowAnswer)
	in := doctor.Install{
		Now: now, Accepted: hour.accepted, BadSignatures: hour.unsigned, NotStored: hour.notStored, Slow: hour.slow, P99: hour.p99,
		AllSilent: p.reconciler.Status().AllSilent,
	}
	if err := p.health.storing(); err != nil {
		in.Refused = append(in.Refused, err.Error())
	}
	for _, a := range p.cfg.Apps {
		in.Apps = append(in.Apps, p.appFacts(ctx, a))
	}
	return in
}

func (p *Program) appFacts(ctx context.Context, a config.App) doctor.AppFacts {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	out := doctor.AppFacts{Name: a.Name}
	if base := p.baseURL(); base != "" {
		out.Endpoint = base + "/webhooks/" + url.PathEscape(a.Name)
		if err := shakeHands(ctx, out.Endpoint, string(a.VerifyToken)); err != nil {
			out.Trouble = err.Error()
		} else {
			out.Reached = true
		}
	}
	g, _, ok := p.apps.client(a.Name)
	if !ok {
		return out
	}
	list, err := g.AppSubscriptions(ctx)
	if err != nil {
		out.Err = refusalOf(err)
		return out
	}
	out.Known = true
	for _, s := range list {
		if s.Object == "page" {
			out.Fields, out.Callback = s.Fields, s.CallbackURL
		}
	}
	return out
}

// pageFacts is what is known of a page; Graph's silence is one of the facts.
func (p *Program) pageFacts(ctx context.Context, id domain.PageID) (out doctor.Page, err error) {
	ctx, cancel := context.WithTimeout(ctx, examineTimeout)
	defer cancel()
	if out.Row, err = pages.Get(p.model("pages"), id); errors.Is(err, pages.ErrNotFound) {
		return out, fmt.Errorf("%w: nothing is known of page %s; type: pagestream pages list", api.ErrRefused, id)
	} else if err != nil {
		return out, fmt.Errorf("read page %s: %w", id, err)
	}
	if out.Row.State != pages.Connected {
		return out, nil
	}
	sub, err := subscriptions.Get(p.model("subscriptions"), id, out.Row.App)
	switch {
	case err == nil:
		out.Subscription = &sub
	case !errors.Is(err, subscriptions.ErrNotFound):
		return out, fmt.Errorf("read subscription of page %s: %w", id, err)
	}
	if s, ok := p.reconciler.Page(id); ok {
		out.Silence = s.Silence
	}
	g, _, ok := p.apps.client(out.Row.App)
	a, _ := p.apps.config(out.Row.App)
	if !ok {
		out.Err = doctor.Refusal{Words: "app " + out.Row.App + " is not configured, or has no id"}
		return out, nil
	}
	out.Own = a.ID
	probe, err := p.connector.Probe(ctx, id)
	if err != nil {
		out.Err = refusalOf(err)
	} else {
		out.Token, out.TokenCode, out.TokenSubcode, out.TokenWords = probe.State, probe.Code, probe.Subcode, probe.Reason
		out.MissingScopes = probe.MissingScopes
		out.Row.TokenExpires, out.Row.DataAccessExpires = probe.Expires, probe.DataAccessExpires
	}
	token, err := p.openToken(id)
	if err != nil {
		return out, err
	}
	list, err := g.SubscribedApps(ctx, string(id), token)
	if err != nil {
		out.Err = refusalOf(err)
		return out, nil
	}
	out.Asked = true
	for _, a := range list {
		out.Apps = append(out.Apps, doctor.App(a))
	}
	return out, nil
}

// openToken opens a page's token, be it dead or not.
func (p *Program) openToken(id domain.PageID) (string, error) {
	c, err := pages.Credentials(p.model("pages"), id)
	if err != nil {
		return "", fmt.Errorf("read credentials of page %s: %w", id, err)
	}
	b, err := p.keys.Open(c.SealedToken, connect.TokenAAD(id))
	if err != nil {
		return "", fmt.Errorf("open token of page %s: %w", id, err)
	}
	return string(b), nil
}

// refusalOf is a failed call of Graph in the doctor's terms.
func refusalOf(err error) doctor.Refusal {
	var e *graph.Error
	if !errors.As(err, &e) {
		return doctor.Refusal{Words: err.Error()}
	}
	return doctor.Refusal{
		Code: e.Code, Subcode: e.Subcode, Words: e.Words(), Throttled: errors.Is(e, graph.ErrThrottled), RetryAfter: e.RetryAfter(),
	}
}

// errHandshake says that something else than we answered.
var errHandshake = errors.New("the challenge did not come back")

// shakeHands does at a callback URL what Meta does when it is registered.
func shakeHands(ctx context.Context, endpoint, verifyToken string) error {
	const challenge = "1158201444"
	query := url.Values{"hub.mode": {"subscribe"}, "hub.verify_token": {verifyToken}, "hub.challenge": {challenge}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint+"?"+query.Encode(), nil)
	if err != nil {
		return fmt.Errorf("make handshake: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the URL, which has the verify token
		}
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK || string(got) != challenge {
		return fmt.Errorf("%w: HTTP status %d", errHandshake, resp.StatusCode)
	}
	return nil
}
