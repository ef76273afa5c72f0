package connect

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/subscriptions"
)

// Resubscribe subscribes a connected page again with all its wanted fields and
// reads them back. An error of Graph is returned as an Outcome, not as an error.
func (c *Connector) Resubscribe(ctx context.Context, page domain.PageID) (meta.Outcome, error) {
	op, err := c.startWithToken(ctx, page)
	if err != nil {
		return meta.Outcome{}, err
	}
	return op.subscribe(ctx)
}

// Check asks Graph what a connected page is subscribed to. It stores an event,
// confirmed or drifted, only if the answer differs from what was known. It also asks for
// the linked Instagram account, and stores page.linked if it is another one than before.
//
// If Graph reports the token as dead, page.token_invalidated is stored, once; the
// outcome is then failed, and the recorded subscription does not change.
func (c *Connector) Check(ctx context.Context, page domain.PageID) (meta.Outcome, error) {
	op, err := c.startWithToken(ctx, page)
	if err != nil {
		return meta.Outcome{}, err
	}
	apps, err := op.apps(ctx)
	if err != nil {
		return op.recordRefusal(ctx, err, false)
	}
	linked, err := op.checkLink(ctx)
	if err != nil {
		return meta.Outcome{}, err
	}
	out, err := op.recordFields(ctx, apps, false)
	out.Seq = max(out.Seq, linked)
	return out, err
}

// Plan returns the outcome of a check without storing an event: what
// [Connector.Resubscribe] would find and change. Nothing changes at Graph.
func (c *Connector) Plan(ctx context.Context, page domain.PageID) (meta.Outcome, error) {
	op, err := c.startWithToken(ctx, page)
	if err != nil {
		return meta.Outcome{}, err
	}
	apps, err := op.apps(ctx)
	if err == nil {
		return op.compare(ctx, apps), nil
	}
	out := op.outcome(subscriptions.Failed)
	if meta.Refused(err) == nil {
		return out, fmt.Errorf("read subscription of page %s: %w", page, err)
	}
	out.Code, out.Subcode, out.Reason = meta.Explain(err)
	return out, nil
}

// subscribe subscribes the page to the wanted fields and records what it reads back.
func (op *operation) subscribe(ctx context.Context) (meta.Outcome, error) {
	wanted := op.conn.Fields
	_, err := op.appendSubscription(ctx, domain.SubscriptionRequested, domain.Subscription{Wanted: wanted})
	if err != nil {
		return meta.Outcome{}, err
	}
	if err := op.graph.Subscribe(ctx, string(op.page), op.token, wanted); err != nil {
		return op.recordRefusal(ctx, err, true)
	}
	apps, err := op.apps(ctx)
	if err != nil {
		return op.recordRefusal(ctx, err, true)
	}
	return op.recordFields(ctx, apps, true)
}

// recordFields compares Graph's list with the wanted fields and records the result:
// always after a subscribe call, otherwise only if it differs from what was known.
func (op *operation) recordFields(ctx context.Context, apps []graph.App, requested bool) (meta.Outcome, error) {
	out := op.compare(ctx, apps)
	event := domain.SubscriptionConfirmed
	if !out.Confirmed() {
		event = domain.SubscriptionDrifted
	}
	if !requested && op.known.State == out.State && op.known.Reason == out.Reason &&
		slices.Equal(sorted(op.known.Actual), out.Actual) && slices.Equal(sorted(op.known.Wanted), out.Wanted) {
		return out, nil
	}
	var err error
	out.Seq, err = op.appendSubscription(
		ctx, event, domain.Subscription{Wanted: out.Wanted, Actual: out.Actual, Reason: out.Reason},
	)
	return out, err
}

// compare compares what Graph lists for the page, and for the app, with the wanted
// fields: Meta delivers only fields that are subscribed at both levels.
func (op *operation) compare(ctx context.Context, apps []graph.App) meta.Outcome {
	out := op.outcome(subscriptions.Confirmed)
	subscribed := false
	for _, a := range apps {
		if a.ID == op.graph.AppID() {
			subscribed, out.Actual = true, sorted(a.Fields)
			continue
		}
		out.Others = append(out.Others, strings.TrimSpace(a.ID+" "+a.Name))
	}
	out.Missing = meta.Lack(out.Wanted, out.Actual)
	appErr := op.compareApp(ctx, &out)
	switch {
	case appErr != nil && subscribed && len(out.Missing) == 0:
		// The page is confirmed if the app's fields can't be read. But if it had
		// drifted only because of the app, it stays so until they can be read again.
		if op.known.State != subscriptions.Drifted || len(meta.Lack(out.Wanted, op.known.Actual)) > 0 ||
			op.known.Reason == "" {
			return out
		}
		out.Reason = op.known.Reason
	case !subscribed:
		out.Reason = "the app is not subscribed to the page"
	case len(out.Missing) > 0:
		out.Reason = fmt.Sprintf("%d of %d wanted fields are not subscribed", len(out.Missing), len(out.Wanted))
	case len(out.AppMissing) > 0:
		out.Reason = fmt.Sprintf("the app itself lacks fields (type: %s): %s",
			meta.SetupCommand(op.conn.App), strings.Join(out.AppMissing, ", "))
	default:
		return out
	}
	out.State = subscriptions.Drifted
	return out
}

// compareApp compares the app's own subscription to pages with the wanted fields and our
// callback URL. It returns why the subscription can't be read.
func (op *operation) compareApp(ctx context.Context, out *meta.Outcome) error {
	if op.c.opts.AppSubscriptions == nil {
		return nil
	}
	list, known, err := op.c.opts.AppSubscriptions(ctx, op.conn.App)
	if err != nil || !known {
		return err
	}
	want := meta.AppSubscription{Object: meta.ObjectPage, Fields: out.Wanted}
	if op.c.opts.Endpoint != nil {
		want.CallbackURL = op.c.opts.Endpoint(op.conn.App)
	}
	lacks := want.Compare(list)
	out.AppFields, out.AppMissing = meta.AppDelivers(list, meta.ObjectPage), lacks.Missing
	for _, words := range lacks.Words() {
		out.AppLacks = append(out.AppLacks, words+"; type: "+meta.SetupCommand(op.conn.App))
	}
	return nil
}

// recordTimeout limits the recording of a failure after the caller's context ended.
const recordTimeout = 10 * time.Second

// recordRefusal records why a call of Graph failed. After a subscribe call it stores
// subscription.failed; after a read the recorded subscription does not change. In
// both cases a dead token is recorded.
func (op *operation) recordRefusal(ctx context.Context, cause error, requested bool) (meta.Outcome, error) {
	out := op.outcome(subscriptions.Failed)
	out.Code, out.Subcode, out.Reason = meta.Explain(cause)
	out.Field = refusedField(out.Wanted, out.Class(), out.Reason)
	out.RetryAfter = int((meta.RetryAfter(cause) + time.Second - 1) / time.Second)
	// The failure is recorded even if the caller's context has ended.
	ctx = context.WithoutCancel(ctx)
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	if requested {
		var err error
		out.Seq, err = op.appendSubscription(ctx, domain.SubscriptionFailed, domain.Subscription{
			Wanted: out.Wanted, Reason: out.Reason, Code: out.Code, Subcode: out.Subcode,
		})
		if err != nil {
			return out, err
		}
	}
	if out.Class() == meta.TokenDead && op.lastPage > 0 && !op.known.TokenDead {
		conn := domain.Connection{
			ConnectionID: op.conn.ConnectionID, App: op.conn.App, Code: out.Code, Subcode: out.Subcode,
			Reason: fmt.Sprintf("%d/%d: %s", out.Code, out.Subcode, out.Reason),
		}
		seq, err := op.append(ctx, op.lastPage, domain.PageTokenInvalidated, domain.Data{Connection: &conn})
		if err != nil {
			return out, err
		}
		out.Seq = seq
	}
	if !requested && meta.Refused(cause) == nil {
		return out, fmt.Errorf("read subscription of page %s: %w", op.page, cause)
	}
	return out, nil
}

// position matches Graph's reference to one of the fields that it was sent.
var position = regexp.MustCompile(`subscribed_fields\[(\d{1,3})\]`)

// refusedField returns the field because of which Graph refused the call: by its
// position among those that were sent, or because the message names no other. It is
// for display only, since the message is not documented.
func refusedField(sent []string, class meta.Class, words string) string {
	if class != meta.Permission && class != meta.Parameter {
		return ""
	}
	if m := position.FindStringSubmatch(words); m != nil {
		if i, err := strconv.Atoi(m[1]); err == nil && i < len(sent) {
			return sent[i]
		}
		return ""
	}
	named := strings.FieldsFunc(words, func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') })
	found := ""
	for _, f := range sent {
		switch {
		case !slices.Contains(named, f):
		case found != "":
			return "" // it may be any of them
		default:
			found = f
		}
	}
	return found
}
