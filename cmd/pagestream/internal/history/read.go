package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
)

// Query selects entries. Each empty field selects all.
type Query struct {
	Since time.Time
	Who   string
	Verb  string
	// Verbs, if there are any, are those of the entries that are read at all, which takes little time however
	// many others there are. Requests that a token did not permit are not among these.
	Verbs []string
	// On is a name that the verb was about, or kind=name. A contact may be given by its id, and page=ID also
	// finds a verb on several pages that are named.
	On string
	// Before is the sequence before which the entries are, 0 for the newest.
	Before uint64
	// Limit is the maximum number of entries.
	Limit int
}

// matches reports whether an entry is selected, apart from its time and sequence.
func (q Query) matches(e Entry) bool {
	if q.Who != "" && e.Who != q.Who || q.Verb != "" && e.Verb != q.Verb {
		return false
	}
	if q.On == "" {
		return true
	}
	for kind, name := range e.On {
		if q.On == name || q.On == kind+"="+name ||
			kind == "pages" && slices.Contains(strings.Fields(name), strings.TrimPrefix(q.On, "page=")) ||
			kind == "contact" && name == domain.ContactHash(domain.ContactID(strings.TrimPrefix(q.On, "contact="))) {
			return true
		}
	}
	return false
}

const (
	firstStep = 256    // entries that are read at first
	lastStep  = 16_384 // and at most at once
)

// Read returns the newest entries first. The sequence is that to continue before, 0 at the
// end.
func (h *History) Read(ctx context.Context, q Query) (out []Entry, next uint64, err error) {
	out = []Entry{}
	st, err := h.opts.JS.Stream(ctx, Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return out, 0, nil // nothing was recorded yet
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open history: %w", err)
	}
	state := st.CachedInfo().State
	end := state.LastSeq
	if q.Before > 0 {
		end = min(end, q.Before-1)
	}
	var filters []string
	step, most := uint64(firstStep), uint64(lastStep)
	for _, verb := range q.Verbs {
		filters = append(filters, subjectPrefix+verb+".*")
		step, most = lastStep, math.MaxUint64/4
	}
	for ; end > 0 && end >= state.FirstSeq; step = min(4*step, most) {
		from := max(state.FirstSeq, end-min(step, end)+1)
		list, err := h.between(ctx, from, end, filters)
		if err != nil {
			return nil, 0, err
		}
		for _, e := range slices.Backward(list) {
			if e.ended().Before(q.Since) { // entries are in the order in which they ended
				return out, 0, nil
			}
			if !q.matches(e) {
				continue
			}
			if len(out) == q.Limit {
				return out, out[len(out)-1].Seq, nil
			}
			out = append(out, e)
		}
		end = from - 1
	}
	return out, 0, nil
}

// between returns the entries with sequences from from to to, in order, of all subjects if there are no filters.
func (h *History) between(ctx context.Context, from, to uint64, filters []string) (out []Entry, err error) {
	c, err := h.opts.JS.OrderedConsumer(ctx, Stream, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from, InactiveThreshold: 10 * time.Second,
		FilterSubjects: filters,
	})
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	for from <= to {
		batch, err := c.FetchNoWait(int(min(to-from+1, 1024)))
		if err != nil {
			return nil, fmt.Errorf("read history: %w", err)
		}
		n := 0
		for m := range batch.Messages() {
			n++
			meta, err := m.Metadata()
			if err != nil {
				return nil, fmt.Errorf("read history: %w", err)
			}
			var e Entry
			if from = meta.Sequence.Stream + 1; from > to+1 {
				break
			}
			if json.Unmarshal(m.Data(), &e) == nil {
				e.Seq = meta.Sequence.Stream
				out = append(out, e)
			}
		}
		if err := batch.Error(); err != nil {
			return nil, fmt.Errorf("read history: %w", err)
		}
		if n == 0 {
			break
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return out, nil
}
