package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/audit"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/console"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/doctor"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/hooks"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/streams"
)

// operator is the console's view of the program. What it does is what the API
// does: both ask the same connector and the same actions.
type operator struct {
	p         *Program
	connector connector
	actions   *actions
}

// newConsole makes the pages for people. Sessions are signed with a key of the
// ring, so that they outlive the process.
func (p *Program) newConsole(o operator, admin, read string) error {
	key, err := p.keys.Derive("console/session")
	if err != nil {
		return fmt.Errorf("make console: %w", err)
	}
	p.console = console.New(console.Options{
		JS: p.js, Stream: streams.Name,
		Pages: p.model("pages"), Subscriptions: p.model("subscriptions"),
		Conversations: p.model("conversations"), Deliveries: p.model("deliveries"),
		Operator: o, AdminToken: admin, ReadToken: read, SessionKey: key,
		Version: readBuild().Version, Logger: p.log.With("part", "console"),
	})
	return nil
}

func (o operator) Check(ctx context.Context, page domain.PageID) (console.Outcome, error) {
	return consoleOutcome(o.connector.Check(ctx, page))
}

func (o operator) Resubscribe(ctx context.Context, page domain.PageID) (console.Outcome, error) {
	return consoleOutcome(o.connector.Resubscribe(ctx, page))
}

func (o operator) Disconnect(ctx context.Context, page domain.PageID) (console.Outcome, error) {
	return consoleOutcome(o.connector.Disconnect(ctx, page))
}

func consoleOutcome(s api.SubscriptionOutcome, err error) (console.Outcome, error) {
	return console.Outcome{State: s.State, Missing: s.Missing, AppMissing: s.AppMissing, Reason: s.Reason}, err
}

func (o operator) Apps() (names []string) {
	for _, a := range o.p.cfg.Apps {
		names = append(names, a.Name)
	}
	return names
}

func (o operator) Invite(ctx context.Context, app, company, back string) (string, time.Time, error) {
	in, err := o.actions.Invite(ctx, api.InviteRequest{App: app, Company: company, Back: back})
	return in.URL, in.Expires, err
}

func (o operator) Examine(ctx context.Context, page domain.PageID) (install, of []console.Finding, err error) {
	report, err := o.p.examine(ctx, []domain.PageID{page})
	if err != nil {
		return nil, nil, err
	}
	for _, p := range report.Pages {
		of = append(of, consoleFindings(p.Findings)...)
	}
	return consoleFindings(report.Install), of, nil
}

func consoleFindings(list []doctor.Finding) (out []console.Finding) {
	for _, f := range list {
		out = append(out, console.Finding{
			Cause: string(f.Cause), Severity: string(f.Severity), Summary: f.Summary, Evidence: f.Evidence, Do: f.Do, Because: string(f.Because),
		})
	}
	return out
}

func (o operator) Health() console.Health {
	if o.p.reconciler == nil {
		return console.Health{}
	}
	s := o.p.reconciler.Status()
	out := console.Health{AllSilent: s.AllSilent, Pages: make(map[domain.PageID]console.PageHealth, len(s.Pages))}
	for _, p := range s.Pages {
		out.Pages[p.Page] = console.PageHealth{
			State: string(p.State), Reason: p.Reason, Missing: p.Missing, AppMissing: p.AppMissing, Checked: p.LastCheck,
			TokenWarning: p.TokenWarning, Silent: p.Silence.Silent, SilentSince: p.Silence.Since, Expected: p.Silence.Expected,
		}
	}
	return out
}

func (o operator) Send(ctx context.Context, page domain.PageID, m console.Reply) (console.Sent, error) {
	text, err := json.Marshal(map[string]string{"text": m.Text})
	if err != nil {
		return console.Sent{}, fmt.Errorf("encode message: %w", err)
	}
	kind := "RESPONSE"
	if m.Tag != "" {
		kind = "MESSAGE_TAG"
	}
	sent, err := o.actions.Send(ctx, page, api.MessageRequest{Contact: m.Contact, Message: text, MessagingType: kind, Tag: m.Tag})
	return console.Sent{Seq: sent.Seq, Warning: sent.Warning}, err
}

func (o operator) Past(ctx context.Context, page domain.PageID, contact domain.ContactID, seq uint64, read func(projections.Viewer) error) error {
	return o.p.past(ctx, page, contact, seq, time.Time{}, read)
}

func (o operator) Ready(ctx context.Context) []error { return o.p.health.reasons(ctx) }

func (o operator) Intake() console.Intake {
	c := o.p.ledger.Counts()
	in := console.Intake{Stored: c.Stored, Duplicates: c.Duplicates()}
	for n := range maps.Values(c.Rejected) {
		in.Refused += n
	}
	return in
}

func (o operator) Statuses() []projections.Status { return o.p.api.Statuses() }

func (o operator) Rebuild(ctx context.Context, name string, progress func(projections.Rebuilding)) (projections.Rebuilt, error) {
	return o.actions.Rebuild(ctx, name, progress)
}

func (o operator) Verify(ctx context.Context, name string, progress func(projections.Rebuilding)) (projections.Verified, error) {
	return o.actions.Verify(ctx, name, progress)
}

func (o operator) Audit(ctx context.Context, progress func(done, of uint64)) (console.Audited, error) {
	report, err := o.p.audit(ctx, func(p audit.Progress) {
		progress(uint64(p.Pass-1)*p.Target+p.Seq, uint64(p.Passes)*p.Target)
	})
	out := console.Audited{
		OK: report.OK, Seq: report.Seq, Took: report.Took, Events: report.Stream.Events, Erased: report.Stream.Erased,
		Accepted: report.Door.Accepted, Items: report.Door.Items, Stored: report.Door.Stored, Duplicates: report.Door.Duplicates,
	}
	for _, p := range report.Problems {
		out.Problems = append(out.Problems, p.What)
	}
	return out, err
}

func (o operator) DeadLetters(limit int) ([]projections.DeadLetter, error) {
	return o.actions.DeadLetters("", projections.DeadLetter{}, limit)
}

func (o operator) Decide(ctx context.Context, d console.Decision) (string, error) {
	out, err := o.actions.Decide(ctx, api.DecisionRequest{
		Action: d.Action, Projection: d.Projection, Event: d.Event, Page: d.Page, All: d.All, Reason: d.Reason,
	})
	if errors.Is(err, projections.ErrNoDeadLetter) {
		return "", errors.New("it is no dead letter any more")
	}
	if err != nil {
		return "", err
	}
	said := []string{fmt.Sprintf("%d dead letters.", out.Count)}
	for _, name := range slices.Sorted(maps.Keys(out.Outcomes)) {
		r := out.Outcomes[name]
		said = append(said, fmt.Sprintf("%s: %d events applied, %d discarded, %d still parked.", name, r.Applied, r.Discarded, r.Parked))
	}
	return strings.Join(said, " "), nil
}

func (o operator) Consumers(ctx context.Context) (out []console.Consumer, err error) {
	list, err := o.p.consumers.List(ctx)
	for _, c := range list {
		out = append(out, console.Consumer{
			Name: c.Name, Pages: c.Pages, Company: c.Company, Types: c.Types, Lag: c.Lag, Pending: c.Pending,
			Redelivered: c.Redelivered, Reading: c.Waiting > 0, LastActive: c.LastActive,
		})
	}
	return out, err
}

func (o operator) Hooks() (out []console.Hook) {
	if o.p.hooks == nil {
		return nil
	}
	for _, s := range o.p.hooks.Status() {
		out = append(out, consoleHook(s))
	}
	return out
}

func consoleHook(s hooks.Status) console.Hook {
	return console.Hook{
		Name: s.Name, Host: s.Host, Lag: s.Lag, Delivered: s.Delivered, Failed: s.Failed, Retrying: s.Retrying,
		LastError: s.LastError, Disabled: s.Disabled, DeadLetters: s.DeadLetters,
	}
}
