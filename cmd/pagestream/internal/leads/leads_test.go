package leads_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/leads"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

const (
	page   = domain.PageID("104")
	answer = "ann@example.com"
)

var created = time.Date(2026, 6, 1, 11, 0, 0, 0, time.UTC)

// world is a fake of Graph and of the tokens, with a clock, next to a real stream.
type world struct {
	*projectionstest.Rig
	parking *streams.Parking

	mu    sync.Mutex
	now   time.Time
	token string
	fail  map[string]error // by page or lead: the answer of Graph, or of the tokens for "token"
	asked map[string]int   // by lead
	erase []uint64         // sequences that are erased while Graph is asked
	seen  map[leads.Result]int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		Rig: projectionstest.NewRig(t), now: created.Add(time.Minute), token: "EAAsecretsecretsecret",
		fail: map[string]error{}, asked: map[string]int{}, seen: map[leads.Result]int{},
	}
	w.parking = streams.NewParking(w.JS, streams.Name)
	return w
}

func (w *world) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

func (w *world) Access(_ context.Context, page domain.PageID) (meta.Access, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.fail["token"]; err != nil {
		return meta.Access{}, fmt.Errorf("page %s: %w", page, err)
	}
	return meta.Access{Page: page, App: "shop", Token: w.token}, nil
}

func (w *world) Lead(ctx context.Context, a meta.Access, lead string) (domain.Lead, time.Time, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked[lead]++
	if _, err := streams.Erase(ctx, w.JS, streams.Name, w.erase, func(streams.Stored) bool { return true }); err != nil {
		return domain.Lead{}, time.Time{}, err
	}
	for _, key := range []string{string(a.Page), lead} {
		if err := w.fail[key]; err != nil {
			return domain.Lead{}, time.Time{}, fmt.Errorf("GET lead: %w", err)
		}
	}
	return domain.Lead{
		ID: lead, Campaign: "23", Platform: "ig", Organic: true,
		Answers: []domain.LeadAnswer{{Name: "email", Values: []string{answer}}},
	}, created, nil
}

func (w *world) reactor() *leads.Reactor {
	return leads.New(leads.Options{
		Connect: func() (*nats.Conn, error) { return w.Embedded().Connect("leads") },
		JS:      w.JS, Parking: w.parking, Tokens: w, Graph: w, Publisher: w.Publisher,
		MaxWait: 50 * time.Millisecond, Interval: 10 * time.Millisecond,
		Now: func() time.Time {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.now
		},
		Observe: func(r leads.Result) { w.set(func() { w.seen[r]++ }) },
	})
}

// received returns the event of a lead's webhook.
func received(page domain.PageID, lead string) domain.Event {
	return domain.Event{
		ID: domain.DedupID("page", page, "lead", lead), Type: domain.LeadReceived, Page: page,
		Time: created.Add(time.Second),
		Data: domain.Data{Object: "page", Lead: &domain.Lead{ID: lead, Form: "9", Ad: "8", AdGroup: "7"}},
	}
}

// handle stores an event and calls a new reactor with it.
func (w *world) handle(t *testing.T, r *leads.Reactor, e domain.Event) error {
	t.Helper()
	receipt := w.Publish(t, e)[0]
	return r.Handle(t.Context(), streams.Stored{Event: e, Seq: receipt.Seq, At: e.Time})
}

// retrieved returns the ids of the leads whose answers are stored, in order.
func (w *world) retrieved(t *testing.T) (list []string) {
	t.Helper()
	for _, e := range w.All(t) {
		if e.Type == domain.LeadRetrieved {
			list = append(list, e.Data.Lead.ID)
		}
	}
	return list
}

// TestErasedWhileGraphIsAsked checks that the answers of a lead are not stored that is erased before Graph has answered.
func TestErasedWhileGraphIsAsked(t *testing.T) {
	w := newWorld(t)
	w.erase = []uint64{w.Publish(t, received(page, "5"))[0].Seq}
	e, err := streams.Get(t.Context(), w.JS, streams.Name, w.erase[0])
	require.NoError(t, err)
	require.NoError(t, w.reactor().Handle(t.Context(), e))
	assert.Equal(t, map[string]int{"5": 1}, w.asked)
	assert.Empty(t, w.retrieved(t))
	assert.Equal(t, map[leads.Result]int{leads.Erased: 1}, w.seen)
}

func TestAnswersAreStoredOnce(t *testing.T) {
	w := newWorld(t)
	for range 2 { // a delivery that is handled again, by another node
		require.NoError(t, w.handle(t, w.reactor(), received(page, "1")))
	}
	all := w.All(t)
	require.Len(t, all, 2)
	got := all[1].Event
	assert.Equal(t, domain.Event{
		ID: "pagestream:104:lead.retrieved:1", Type: domain.LeadRetrieved, Page: page, Time: created,
		Data: domain.Data{App: "shop", Object: "page", Lead: &domain.Lead{
			ID: "1", Form: "9", Ad: "8", AdGroup: "7", Campaign: "23", Platform: "ig", Organic: true,
			Answers: []domain.LeadAnswer{{Name: "email", Values: []string{answer}}},
		}},
	}, got)
	assert.Equal(t, map[leads.Result]int{leads.Retrieved: 2}, w.seen)
}

func TestEventsWithoutALead(t *testing.T) {
	w := newWorld(t)
	test, nobody, nowhere, other, empty := received(page, "1"), received(page, ""), received(domain.NoPage, "2"),
		received(page, "3"), received(page, "4")
	test.Data.Test = true
	other.Type = domain.ChangeReceived
	empty.Data.Lead = nil
	for i, e := range []domain.Event{test, nobody, nowhere, other, empty} {
		e.ID = fmt.Sprint("event ", i)
		require.NoError(t, w.reactor().Handle(t.Context(), streams.Stored{Event: e, Seq: 1}))
	}
	assert.Empty(t, w.asked)
	assert.Empty(t, w.seen)
}

func TestErrorsAreClassified(t *testing.T) {
	for name, c := range map[string]struct {
		key    string
		err    error
		result leads.Result
		again  bool // the reactor tries it again at once
	}{
		"short limit":  {"1", &meta.Error{Code: 613, After: 10 * time.Millisecond}, leads.Throttled, true},
		"long limit":   {"1", &meta.Error{Code: 80006, After: time.Hour}, leads.Throttled, false},
		"permission":   {"1", &meta.Error{Code: 200, Message: "(#200) Requires leads_retrieval"}, leads.Refused, false},
		"no such lead": {"1", &meta.Error{Code: 100, Subcode: 33}, leads.Refused, false},
		"no number":    {"1", graph.ErrPageID, leads.Refused, false},
		"dead token":   {"1", &meta.Error{Code: 190, Subcode: 460}, leads.NoToken, false},
		"no app":       {"1", meta.ErrNotConnected, leads.NoToken, false},
		"unconnected":  {"token", meta.ErrNotConnected, leads.NoToken, false},
		"known dead":   {"token", meta.ErrTokenDead, leads.NoToken, false},
		"token store":  {"token", io.ErrUnexpectedEOF, leads.Failed, true},
		"no answer":    {"1", io.ErrUnexpectedEOF, leads.Failed, true},
		"code 2":       {"1", &meta.Error{Code: 2}, leads.Failed, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.fail[c.key] = c.err
			err := w.handle(t, w.reactor(), received(page, "1"))
			require.Error(t, err)
			assert.Equal(t, !c.again, errors.Is(err, streams.ErrNoRetry))
			assert.Equal(t, map[leads.Result]int{c.result: 1}, w.seen)
			assert.NotContains(t, err.Error(), w.token)
			assert.Empty(t, w.retrieved(t))
		})
	}
	w := newWorld(t)
	r := w.reactor()
	w.fail[string(page)] = &meta.Error{Code: 80006, After: time.Hour}
	for _, lead := range []string{"1", "2"} {
		require.ErrorIs(t, w.handle(t, r, received(page, lead)), streams.ErrNoRetry)
	}
	require.NoError(t, w.handle(t, r, received("105", "3")))
	assert.Equal(t, map[string]int{"1": 1, "3": 1}, w.asked, "the page is left alone, another is not")
	assert.Len(t, leads.Results(), 6)
}

// run runs a reactor until stop is called or the test ends.
func (w *world) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.reactor().Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		assert.NoError(t, <-ended)
	})
	t.Cleanup(stop)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		_, err := w.JS.PushConsumer(t.Context(), streams.Name, "leads")
		return err
	})
	return stop
}

// eventually waits until these leads are stored and those parked.
func (w *world) eventually(t *testing.T, retrieved []string, parked int) {
	t.Helper()
	streamstest.Eventually(t, streamstest.Limit, func() error {
		list, err := w.parking.List(t.Context(), "leads")
		got := slices.Sorted(slices.Values(w.retrieved(t)))
		if err != nil || len(list) != parked || !slices.Equal(got, retrieved) {
			return fmt.Errorf("stored %v, parked %v, %w", got, list, err)
		}
		return nil
	})
}

// calls returns how often each lead was asked for, after a time in which parked leads
// are checked several times.
func (w *world) calls() map[string]int {
	time.Sleep(100 * time.Millisecond)
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.asked)
}

func TestParkedLeadsAreTriedAgain(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, leaks) })
	w := newWorld(t)
	w.Publish(t, received(page, "0")) // history
	stop := w.run(t)

	// No permission: one call for each lead, until the page has another token. A lead that
	// does not exist does not delay the others.
	w.set(func() {
		w.fail["104"] = &meta.Error{Code: 200}
		w.fail["5"] = &meta.Error{Code: 100, Subcode: 33}
	})
	w.Publish(t, received(page, "1"), received(page, "2"), received("105", "5"), received("105", "6"))
	w.eventually(t, []string{"6"}, 3)
	assert.Equal(t, map[string]int{"1": 1, "2": 1, "5": 1, "6": 1}, w.calls())
	w.set(func() { w.token, w.fail["104"] = "EAAanother", nil })
	w.eventually(t, []string{"1", "2", "6"}, 1)

	// The same token has got the permission: a new lead shows it.
	w.set(func() { w.fail["104"] = &meta.Error{Code: 10} })
	w.Publish(t, received(page, "3"))
	w.eventually(t, []string{"1", "2", "6"}, 2)
	w.set(func() { w.fail["104"] = nil })
	assert.Equal(t, 1, w.calls()["3"])
	w.Publish(t, received(page, "4"))
	w.eventually(t, []string{"1", "2", "3", "4", "6"}, 1)

	// A lead that does not exist is asked for once a day.
	assert.Equal(t, 2, w.calls()["5"])
	w.set(func() { w.now = w.now.Add(25 * time.Hour) })
	assert.Equal(t, 3, w.calls()["5"])

	// A page whose token is dead is not asked for until it has another.
	w.set(func() { w.fail["token"] = meta.ErrTokenDead })
	w.Publish(t, received(page, "7"))
	w.eventually(t, []string{"1", "2", "3", "4", "6"}, 2)
	assert.Zero(t, w.calls()["7"])
	w.set(func() { w.fail["token"], w.now = nil, w.now.Add(meta.NoTokenWait) })
	w.eventually(t, []string{"1", "2", "3", "4", "6", "7"}, 1)

	// A throttled page is asked again when its limit is over.
	w.set(func() { w.fail["104"] = &meta.Error{Code: 32, After: time.Hour} })
	w.Publish(t, received(page, "8"))
	w.eventually(t, []string{"1", "2", "3", "4", "6", "7"}, 2)
	w.set(func() { w.fail["104"] = nil })
	assert.Equal(t, 1, w.calls()["8"])
	w.set(func() { w.now = w.now.Add(time.Hour) })
	w.eventually(t, []string{"1", "2", "3", "4", "6", "7", "8"}, 1)
	stop()

	// Parked leads and those of the meantime are retrieved after a restart, the others not again.
	w.set(func() { clear(w.asked); delete(w.fail, "5") })
	w.Publish(t, received(page, "9"))
	w.run(t)
	w.eventually(t, []string{"1", "2", "3", "4", "5", "6", "7", "8", "9"}, 0)
	assert.Equal(t, map[string]int{"5": 1, "9": 1}, w.calls())
}

func TestNewPanicsWithoutRequiredOptions(t *testing.T) {
	assert.Panics(t, func() { leads.New(leads.Options{}) })
}
