package operate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/audit"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/projections"
)

// Statuses returns the status of each read model.
func (o *Operator) Statuses() []projections.Status { return o.Models.Statuses() }

// Rebuild builds a new copy of a read model from the stream, which then replaces the
// live one. It fails with [ErrUnknown].
func (o *Operator) Rebuild(ctx context.Context, name string, progress func(projections.Rebuilding)) (
	projections.Rebuilt, error,
) {
	r, err := o.Models.Find(name)
	if err != nil {
		return projections.Rebuilt{}, err
	}
	out, err := r.Rebuild(ctx, progress)
	text, good := RebuiltText(out)
	record(ctx, text, good, err)
	if err == nil && out.Was != "" && !out.Equal {
		o.Logger.Warn("rebuilt read model differs from the one before, which was wrong",
			"projection", name, "seq", out.VerifiedSeq)
	}
	return out, err
}

// Verify compares a read model with a replay of the stream. It changes nothing. It
// fails with [ErrUnknown].
func (o *Operator) Verify(ctx context.Context, name string, progress func(projections.Rebuilding)) (
	projections.Verified, error,
) {
	r, err := o.Models.Find(name)
	if err != nil {
		return projections.Verified{}, err
	}
	out, err := r.Verify(ctx, progress)
	text, good := VerifiedText(out)
	record(ctx, text, good, err)
	return out, err
}

// record puts the result of a verb on record, if the context has its action. The error of one that
// failed may contain anything, and is in the log.
func record(ctx context.Context, result string, good bool, err error) {
	switch {
	case errors.Is(err, context.Canceled):
		result, good = "Canceled; nothing was changed.", false
	case err != nil:
		result, good = "Failed; nothing was changed.", false
	}
	history.From(ctx).Result(result, good)
}

// RebuiltText describes the result of a rebuild in sentences, and reports whether it is good.
func RebuiltText(out projections.Rebuilt) (text string, good bool) {
	text = fmt.Sprintf("Built again up to event %d in %s, %.0f events a second.",
		out.Seq, out.Took.Round(time.Millisecond), out.Rate)
	switch {
	case out.Was == "":
		return text + " There was nothing to compare it with.", true
	case !out.Equal:
		return text + " It differs from the one before, which was wrong.", false
	}
	return text + " It is equal to the one before.", true
}

// VerifiedText describes the result of a verification in sentences, and reports whether it is good.
func VerifiedText(out projections.Verified) (text string, good bool) {
	if out.Equal {
		return fmt.Sprintf("A replay up to event %d gives the same rows (%s).",
			out.Seq, out.Took.Round(time.Millisecond)), true
	}
	if out.Stream != "" {
		return fmt.Sprintf("A replay up to event %d gives different rows: %s.", out.Seq, out.Stream), false
	}
	return fmt.Sprintf("A replay up to event %d gives different rows: rebuild the read model. "+
		"To see the first row that differs, type: pagestream projections verify %s", out.Seq, out.Name), false
}

// AuditText describes the result of an audit in sentences.
func AuditText(a audit.Report) string {
	d := a.Intake
	text := fmt.Sprintf("Event 1 to %d in %s: %d there, %d erased; "+
		"%d deliveries accepted with %d items = %d stored + %d duplicates.",
		a.Seq, a.Took.Round(time.Millisecond), a.Stream.Events, a.Stream.Erased,
		d.Accepted, d.Items, d.Stored, d.Duplicates)
	var rows []string // each way of comparing once, in the order of the models
	models := map[string][]string{}
	for _, m := range a.Models {
		of := m.Rows.String()
		if models[of] == nil {
			rows = append(rows, of)
		}
		models[of] = append(models[of], m.Name)
	}
	for _, of := range rows {
		text += fmt.Sprintf(" Rows of %s compared with a replay: %s.", strings.Join(models[of], ", "), of)
	}
	if a.OK {
		return "All is as promised. " + text
	}
	for _, p := range a.Problems {
		text += " " + p.What + "."
	}
	return "Not as promised. " + text
}

// Explain returns the events that changed a row of a read model. It fails with
// [ErrUnknown].
func (o *Operator) Explain(ctx context.Context, name, bucket string, key []byte,
	progress func(projections.Rebuilding),
) (projections.Trace, error) {
	r, err := o.Models.Find(name)
	if err != nil {
		return projections.Trace{}, err
	}
	return r.Explain(ctx, bucket, key, progress)
}

// Audit compares the whole stream with the counts of the webhook endpoints of all nodes and of the
// read models, and the rows of the read models with a replay: all of them if full is set,
// otherwise a sample of a long stream. See [audit.Run].
func (o *Operator) Audit(ctx context.Context, full bool, progress func(audit.Progress)) (audit.Report, error) {
	a := audit.Options{JS: o.JS, Stream: o.Stream, Ledger: o.Ledger.Counts, Full: full}
	if o.Ledgers != nil {
		a.Others = o.Ledgers.Others
	}
	for _, r := range o.Models {
		a.Models = append(a.Models, r)
	}
	out, err := audit.Run(ctx, a, progress)
	record(ctx, AuditText(out), out.OK, err)
	return out, err
}
