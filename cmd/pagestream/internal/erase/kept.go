package erase

import (
	"context"
	"errors"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/streams"
)

// Kept is what else keeps data of events, beside the stream: files of read models, dead
// letters and copies. Its zero value keeps nothing but copies for consumers.
type Kept struct {
	// Parking has the dead letters of reactors. A reactor of this package stores the
	// events there that it gives up; if it is nil, they are only logged.
	Parking *streams.Parking
	// Models are the read models of this process whose files have data of persons.
	Models []*projections.Runner
	// Forget removes what other parts keep of the events at these sequences, and
	// returns how many dead letters were among it.
	Forget func(ctx context.Context, seqs map[uint64]bool) (int, error)
}

// listed is a set of erased events.
type listed struct {
	seqs map[uint64]bool
	// ids are the keys of the events' ids, by page.
	ids map[domain.PageID]map[string]bool
	// last is the sequence of the last event that records their erasure.
	last uint64
}

func newListed() listed {
	return listed{map[uint64]bool{}, map[domain.PageID]map[string]bool{}, 0}
}

// add adds the events that a record of an erasure lists.
func (l *listed) add(e streams.Stored) {
	if l.ids[e.Page] == nil {
		l.ids[e.Page] = map[string]bool{}
	}
	for _, h := range e.Data.Erasure.Events {
		l.seqs[h.Seq], l.ids[e.Page][h.ID] = true, true
	}
	l.last = max(l.last, e.Seq)
}

// clean removes the dead letters and copies of erased events, and the bytes of deleted
// rows from the files of the read models. Of the page it also removes the copies of other events of
// the contact, if one is given. It returns how many dead letters and copies it has removed.
func (k Kept) clean(ctx context.Context, js jetstream.JetStream, l listed, page domain.PageID, contact domain.ContactID) (
	deadLetters, copies int, err error,
) {
	failed := make([]error, len(k.Models))
	var running sync.WaitGroup
	for i, m := range k.Models {
		running.Go(func() {
			if failed[i] = m.WaitFor(ctx, l.last); failed[i] == nil {
				failed[i] = m.Scrub(ctx)
			}
		})
	}
	running.Wait()
	err = errors.Join(failed...)
	if k.Parking != nil {
		n, parkingErr := k.Parking.Forget(ctx, l.seqs)
		deadLetters += n
		err = errors.Join(err, parkingErr)
	}
	if k.Forget != nil {
		n, forgetErr := k.Forget(ctx, l.seqs)
		deadLetters += n
		err = errors.Join(err, forgetErr)
	}
	copies, copiesErr := streams.EraseCopies(ctx, js, streams.Name, l.ids, page, contact)
	return deadLetters, copies, errors.Join(err, copiesErr)
}
