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
// reads them back. A refusal by Graph is an Outcome, not an error.
func (c *Connector) Resubscribe(ctx context.Context, page domain.PageID) (meta.Outcome, error) {
	v, err := c.opened(ctx, page)
	if err != nil {
		return meta.Outcome{}, err
	}
	return v.subscribe(ctx)
}

// Check asks Graph what a connected page is subscribed to. There is an event
// only where that differs from what was known: confirmed or drifted.
//
// A token that Graph calls dead is stated as page.token_invalidated, once; the
// outcome is then failed, and what is known of the subscription stays.
func (c *Connector) Check(ctx context.Context, page domain.PageID) (meta.Outcome, error) {
	v, err := c.opened(ctx, page)
	if err != nil {
		return meta.Outcome{}, err
	}
	apps, err := v.apps(ctx)
	if err != nil {
		return v.refused(ctx, err, false)
	}
	return v.found(ctx, apps, false)
}

// Plan tells what [Connector.Resubscribe] would find and change. There is no
// event and no change at Graph.
func (c *Connector) Plan(ctx context.Context, page domain.PageID) (meta.Outcome, error) {
	v, err := c.opened(ctx, page)
	if err != nil {
		return meta.Outcome{}, err
	}
	apps, err := v.apps(ctx)
	if err == nil {
		return v.compare(ctx, apps), nil
	}
	out := v.outcome(subscriptions.Failed)
	if meta.Refused(err) == nil {
		return out, fmt.Errorf("read subscription of page %s: %w", page, err)
	}
	out.Code, out.Subcode, out.Reason = meta.Explain(err)
	return out, nil
}

// subscribe asks for the wanted fields, and believes only what it reads back.
func (v *verb) subscribe(ctx context.Context) (meta.Outcome, error) {
	wanted := v.conn.Fields
	if _, err := v.say(ctx, domain.SubscriptionRequested, domain.Subscription{Wanted: wanted}); err != nil {
		return meta.Outcome{}, err
	}
	if err := v.graph.Subscribe(ctx, string(v.page), v.token, wanted); err != nil {
		return v.refused(ctx, err, true)
	}
	apps, err := v.apps(ctx)
	if err != nil {
		return v.refused(ctx, err, true)
	}
	return v.found(ctx, apps, true)
}

// found states what Graph lists: always after a request, else if it is news.
func (v *verb) found(ctx context.Context, apps []graph.App, requested bool) (meta.Outcome, error) {
	out := v.compare(ctx, apps)
	event := domain.SubscriptionConfirmed
	if !out.Confirmed() {
		event = domain.SubscriptionDrifted
	}
	if !requested && v.known.State == out.State && v.known.Reason == out.Reason &&
		slices.Equal(sorted(v.known.Actual), out.Actual) && slices.Equal(sorted(v.known.Wanted), out.Wanted) {
		return out, nil
	}
	var err error
	out.Seq, err = v.say(ctx, event, domain.Subscription{Wanted: out.Wanted, Actual: out.Actual, Reason: out.Reason})
	return out, err
}

// compare holds what Graph lists for the page, and for the app, against what is
// wanted: Meta delivers only what both have.
func (v *verb) compare(ctx context.Context, apps []graph.App) meta.Outcome {
	out := v.outcome(subscriptions.Confirmed)
	subscribed := false
	for _, a := range apps {
		if a.ID == v.graph.AppID() {
			subscribed, out.Actual = true, sorted(a.Fields)
			continue
		}
		out.Others = append(out.Others, strings.TrimSpace(a.ID+" "+a.Name))
	}
	out.Missing = meta.Lack(out.Wanted, out.Actual)
	var appErr error
	if v.c.opts.AppFields != nil {
		var fields []string
		var known bool
		if fields, known, appErr = v.c.opts.AppFields(ctx, v.conn.App); appErr == nil && known {
			out.AppFields = sorted(fields)
			out.AppMissing = meta.Lack(out.Wanted, out.AppFields)
		}
	}
	switch {
	case appErr != nil && subscribed && len(out.Missing) == 0:
		// An app that can't be asked says nothing against the page; but where
		// only the app lacked fields, that stands until it can be asked again.
		if v.known.State != subscriptions.Drifted || len(meta.Lack(out.Wanted, v.known.Actual)) > 0 || v.known.Reason == "" {
			return out
		}
		out.Reason = v.known.Reason
	case !subscribed:
		out.Reason = "the app is not subscribed to the page"
	case len(out.Missing) > 0:
		out.Reason = fmt.Sprintf("%d of %d wanted fields are not subscribed", len(out.Missing), len(out.Wanted))
	case len(out.AppMissing) > 0:
		out.Reason = "the app itself lacks fields (app dashboard, Webhooks, Page): " + strings.Join(out.AppMissing, ", ")
	default:
		return out
	}
	out.State = subscriptions.Drifted
	return out
}

// recordTimeout bounds the recording of a failure after the caller has gone.
const recordTimeout = 10 * time.Second

// refused states why Graph did not do or tell what it was asked. After a request
// that is subscription.failed; a mere question leaves the subscription as it is.
func (v *verb) refused(ctx context.Context, cause error, requested bool) (meta.Outcome, error) {
	out := v.outcome(subscriptions.Failed)
	out.Code, out.Subcode, out.Reason = meta.Explain(cause)
	out.Field = refusedField(out.Wanted, out.Class(), out.Reason)
	out.RetryAfter = int((meta.RetryAfter(cause) + time.Second - 1) / time.Second)
	// What happened is recorded even if the caller has gone.
	ctx = context.WithoutCancel(ctx)
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	if requested {
		var err error
		out.Seq, err = v.say(ctx, domain.SubscriptionFailed, domain.Subscription{
			Wanted: out.Wanted, Reason: out.Reason, Code: out.Code, Subcode: out.Subcode,
		})
		if err != nil {
			return out, err
		}
	}
	if out.Class() == meta.TokenDead && v.lastPage > 0 && !v.known.TokenDead {
		conn := domain.Connection{
			ConnectionID: v.conn.ConnectionID, App: v.conn.App, Code: out.Code, Subcode: out.Subcode,
			Reason: fmt.Sprintf("%d/%d: %s", out.Code, out.Subcode, out.Reason),
		}
		seq, err := v.append(ctx, v.lastPage, domain.PageTokenInvalidated, domain.Data{Connection: &conn})
		if err != nil {
			return out, err
		}
		out.Seq = seq
	}
	if !requested && meta.Refused(cause) == nil {
		return out, fmt.Errorf("read subscription of page %s: %w", v.page, cause)
	}
	return out, nil
}

// position is how Graph names one of the fields that it was sent.
var position = regexp.MustCompile(`subscribed_fields\[(\d{1,3})\]`)

// refusedField finds the field that Graph refused all the others for: by its
// place among those that were sent, or because the words name no other. The
// words are not documented, so it is for the eye only.
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
