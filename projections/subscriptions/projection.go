package subscriptions

import (
	"cmp"
	"slices"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// bucketSubscriptions has page | app -> subscription.
const bucketSubscriptions = "subscriptions"

// Name is the projection's name.
const Name = "subscriptions"

// Projection folds events into subscriptions. It has no state of its own; the
// transaction has all of it.
type Projection struct{}

// New returns the projection.
func New() *Projection { return &Projection{} }

// Name returns [Name].
func (*Projection) Name() string { return Name }

// Version changes when the fold or its layout does, and then the read model is
// rebuilt.
func (*Projection) Version() int { return 1 }

// Apply folds one event in. It never fails on what an event says; errors are the
// store's. Events must come in stream order and each once.
func (*Projection) Apply(tx *store.Tx, e streams.Stored) error {
	to, ok := targets[e.Type]
	if !ok || e.Data.Test || e.Page == "" || e.Page == domain.NoPage {
		return nil
	}
	in, odd := e.Data.Subscription, false
	if in == nil {
		in, odd = &domain.Subscription{}, true
	}
	app := cmp.Or(in.App, e.Data.App)
	key := store.Key(string(e.Page), app)
	bucket := tx.Bucket(bucketSubscriptions)
	s, found, err := store.GetJSON[Subscription](bucket, key)
	if err != nil {
		return err
	}
	if !found {
		s = Subscription{Page: e.Page, App: app, State: None, History: []Transition{}}
	}
	s.LastSeq = e.Seq
	if odd {
		s.Odd++
	} else {
		s.apply(to, in, e)
	}
	return store.PutJSON(bucket, key, s)
}

// targets are the states that events lead to.
var targets = map[domain.Type]State{
	domain.SubscriptionRequested: Requested,
	domain.SubscriptionConfirmed: Confirmed,
	domain.SubscriptionFailed:    Failed,
	domain.SubscriptionDrifted:   Drifted,
	domain.SubscriptionRemoved:   Removed,
}

func (s *Subscription) apply(to State, in *domain.Subscription, e streams.Stored) {
	from, wanted, actual, now := s.State, s.Wanted, s.Actual, projections.When(e)
	if in.Wanted != nil {
		s.Wanted = fields(in.Wanted)
	}
	switch to {
	case Confirmed, Drifted:
		// Drift to nothing is told by an empty list.
		s.Actual, s.CheckedAt = fields(in.Actual), now
	case Failed:
		if in.Actual != nil {
			s.Actual, s.CheckedAt = fields(in.Actual), now
		}
		s.Failure = &Failure{Code: in.Code, Subcode: in.Subcode, Reason: in.Reason, Time: now}
	case Removed:
		s.Actual = nil
	}
	s.State, s.Reason = to, in.Reason
	if from != to {
		s.Since = now
	} else if to != Failed && slices.Equal(wanted, s.Wanted) && slices.Equal(actual, s.Actual) {
		return // seen again, not changed
	}
	s.Transitions++
	s.History = append(s.History, Transition{
		Seq: e.Seq, At: projections.Clean(e.At), Time: now, From: from, To: to, Wanted: s.Wanted, Actual: s.Actual,
		Reason: in.Reason, Code: in.Code, Subcode: in.Subcode,
	})
	if n := len(s.History) - maxHistory; n > 0 {
		s.History = slices.Delete(s.History, 0, n)
	}
}

// fields returns the list sorted and without repeats: its order means nothing.
func fields(in []string) []string {
	out := slices.Clone(in)
	slices.Sort(out)
	return slices.Compact(out)
}
