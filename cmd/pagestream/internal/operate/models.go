package operate

import (
	"context"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/audit"
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
	return r.Verify(ctx, progress)
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
	return audit.Run(ctx, a, progress)
}
