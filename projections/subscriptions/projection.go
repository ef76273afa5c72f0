package subscriptions

import (
	"cmp"
	"slices"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// bucketSubscriptions maps page | app to the subscription.
const bucketSubscriptions = "subscriptions"

// Name is the projection's name.
const Name = "subscriptions"

// Projection folds events into subscriptions. All of its state is in the store.
type Projection struct{}

// New returns the projection.
func New() *Projection { return &Projection{} }

// Name returns [Name].
func (*Projection) Name() string { return Name }

// Version returns the version of the rules and of the stored format. When it changes,
// the read model is rebuilt.
func (*Projection) Version() int { return 1 }

// PagedBuckets implements [projections.Paged]: each row is about one page.
func (*Projection) PagedBuckets() (byPage, byKey []string) { return []string{bucketSubscriptions}, nil }

// Apply applies one event. No content of an event makes it fail; its errors are those
// of the store. Events must be applied in stream order and once each.
func (*Projection) Apply(tx *store.Tx, e streams.Stored) error {
	if e.Type == domain.PageForgotten && e.Page != "" {
		return store.DeletePrefix(tx, store.Key(string(e.Page)), bucketSubscriptions)
	}
	to, ok := targets[e.Type]
	if !ok || e.Data.Test || e.Page == "" || e.Page == domain.NoPage {
		return nil
	}
	in := e.Data.Subscription
	incomplete := in == nil
	if incomplete {
		in = &domain.Subscription{}
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
	if incomplete {
		s.Incomplete++
	} else {
		s.apply(to, in, e)
	}
	return store.PutJSON(bucket, key, s)
}

// targets are the states after events, by type.
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
		// An empty list means that Graph has no fields any more.
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
		return // nothing has changed
	}
	s.Transitions++
	s.History = append(s.History, Transition{
		Seq: e.Seq, At: projections.Clean(e.At), Time: now,
		From: from, To: to, Wanted: s.Wanted, Actual: s.Actual,
		Reason: in.Reason, Code: in.Code, Subcode: in.Subcode,
	})
	if n := len(s.History) - maxHistory; n > 0 {
		s.History = slices.Delete(s.History, 0, n)
	}
}

// fields returns the list sorted and without duplicates, as its order has no meaning.
func fields(in []string) []string {
	out := slices.Clone(in)
	slices.Sort(out)
	return slices.Compact(out)
}
