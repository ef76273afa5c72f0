package history_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams/embedded"
	"github.com/pagestream/pagestream/streams/streamstest"
)

func newHistory(t *testing.T, s *streamstest.Server) *history.History {
	t.Helper()
	h := history.New(history.Options{JS: s.JS})
	t.Cleanup(func() { assert.NoError(t, h.Close(context.WithoutCancel(t.Context()))) })
	return h
}

// record puts one verb on record.
func record(t *testing.T, h *history.History, who, verb string, status int, on func(*history.Action)) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
	a := h.Begin(r, who, "admin", verb)
	if on != nil {
		on(a)
	}
	a.Ended(status, 0)
	a.End()
}

func read(t *testing.T, h *history.History, q history.Query) (out []string) {
	t.Helper()
	for {
		list, next, err := h.Read(t.Context(), q)
		require.NoError(t, err)
		for _, e := range list {
			out = append(out, fmt.Sprint(e.Who, " ", e.Verb, " ", e.On, " ", e.Outcome))
		}
		if q.Before = next; next == 0 {
			return out
		}
	}
}

func TestEntries(t *testing.T) {
	s := streamstest.Run(t)
	h := newHistory(t, s)
	assert.Empty(t, read(t, h, history.Query{Limit: 10}), "no stream yet")
	record(t, h, "file:admin", "pages_check", 200, func(a *history.Action) { a.On("page", "7000") })
	record(t, h, "bot", "send", 422, func(a *history.Action) { a.On("page", "7001"); a.OnContact("31") })
	record(t, h, "bot", "erase", 502, func(a *history.Action) {
		a.On("page", "70\x1b00")
		a.OnContact("31")
		a.On("empty", "")
		a.On("token", "pst_"+strings.Repeat("x", 43))
	})
	hash := domain.ContactHash("31")
	check := "file:admin pages_check map[page:7000] ok"
	send := "bot send map[contact:" + hash + " page:7001] refused"
	erase := "bot erase map[contact:" + hash + " page:70 00 token:(long)] failed"
	assert.Equal(t, []string{erase, send, check}, read(t, h, history.Query{Limit: 10}))
	assert.Equal(t, []string{erase, send, check}, read(t, h, history.Query{Limit: 1}), "by pages")
	assert.Equal(t, []string{erase, send}, read(t, h, history.Query{Limit: 1, Who: "bot"}))
	assert.Equal(t, []string{send}, read(t, h, history.Query{Limit: 10, Verb: "send"}))
	assert.Equal(t, []string{check}, read(t, h, history.Query{Limit: 10, On: "7000"}))
	assert.Equal(t, []string{send}, read(t, h, history.Query{Limit: 10, On: "page=7001"}))
	assert.Equal(t, []string{erase, send}, read(t, h, history.Query{Limit: 10, On: "31"}), "by the contact's id")
	assert.Empty(t, read(t, h, history.Query{Limit: 10, On: "contact=7000"}))
	assert.Empty(t, read(t, h, history.Query{Limit: 10, Since: time.Now().Add(time.Minute)}))
	list, _, err := h.Read(t.Context(), history.Query{Limit: 1})
	require.NoError(t, err)
	assert.Equal(t, "operator.erase", list[0].Type)
	assert.Equal(t, "192.0.2.1", list[0].From)
	assert.Equal(t, 502, list[0].Status)
	var ids []domain.PageID
	for i := range 25 {
		ids = append(ids, domain.PageID(fmt.Sprint(900000000000000+i)))
	}
	record(t, h, "ann", "pages_batch", 200, func(a *history.Action) { a.OnPages(ids) })
	batch := read(t, h, history.Query{Limit: 10, On: "page=900000000000019"})
	require.Len(t, batch, 1, "a page of several")
	assert.Contains(t, batch[0], "pages:900000000000000 900000000000001 ")
	assert.Contains(t, batch[0], " 900000000000019 and 5 more]")
	record(t, h, "ann", "pages_batch", 200, func(a *history.Action) { a.OnPages(ids[24:]) })
	assert.Equal(t, []string{"ann pages_batch map[page:900000000000024] ok"},
		read(t, h, history.Query{Limit: 10, On: "page=900000000000024"}))

	st, err := s.JS.Stream(t.Context(), history.Stream)
	require.NoError(t, err)
	require.Error(t, st.Purge(t.Context()), "an entry can't be removed")
	require.Error(t, st.DeleteMsg(t.Context(), 1))
	c := st.CachedInfo().Config
	assert.Positive(t, c.MaxAge)
	assert.Positive(t, c.MaxBytes)
}

// TestManyEntries checks that all are found, however few of many are selected.
func TestManyEntries(t *testing.T) {
	s := streamstest.Run(t)
	h := newHistory(t, s)
	const n = 1500
	for i := range n {
		who := "bot"
		if i%700 == 3 {
			who = "ann"
		}
		record(t, h, who, "send", 200, func(a *history.Action) { a.On("page", fmt.Sprint(i)) })
	}
	assert.Equal(t, []string{
		"ann send map[page:1403] ok", "ann send map[page:703] ok", "ann send map[page:3] ok",
	}, read(t, h, history.Query{Limit: 2, Who: "ann"}))
	assert.Len(t, read(t, h, history.Query{Limit: 100}), n)
}

// TestVerbs checks that entries of some verbs are found among many others, and that a verb that goes on
// after its request is on record once, with its result.
func TestVerbs(t *testing.T) {
	s := streamstest.Run(t)
	h := newHistory(t, s)
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
	request := h.Begin(r, "ann", "admin", "audit")
	job := request.Fork()
	request.Ended(http.StatusSeeOther, 0)
	request.End()
	assert.Empty(t, read(t, h, history.Query{Limit: 10}))
	job.Result("Not as promised.", false)
	job.Done()
	job.End()
	for range 300 {
		record(t, h, "bot", "send", 200, nil)
	}
	h.NoteResult("projections_rebuild", map[string]string{"projection": "pages"}, strings.Repeat("é", 1000), true)
	q := history.Query{Limit: 10, Verbs: []string{"audit", "projections_rebuild"}}
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if list, _, err := h.Read(t.Context(), q); err != nil || len(list) != 2 {
			return fmt.Errorf("%d entries, %w", len(list), err)
		}
		return nil
	})
	list, _, err := h.Read(t.Context(), q)
	require.NoError(t, err)
	assert.Equal(t, "pagestream", list[0].Who)
	assert.Equal(t, strings.Repeat("é", 500), list[0].Result)
	assert.Equal(t, "Not as promised.", list[1].Result)
	assert.True(t, list[1].Wrong)
	assert.Equal(t, history.OK, list[1].Outcome)
	q.Limit = 1
	assert.Equal(t, []string{"pagestream projections_rebuild map[projection:pages] ok", "ann audit map[] ok"}, read(t, h, q))
	var none *history.Action
	none.Fork().Result("", true)
}

// TestDeniedRequestsRemoveNothing checks that the entries of denied requests have a place of
// their own, which is bounded.
func TestDeniedRequestsRemoveNothing(t *testing.T) {
	s := streamstest.Run(t)
	h := newHistory(t, s)
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil)
	a := h.Begin(r, "bot", "company", "erase")
	a.Denied(http.StatusForbidden)
	a.End()
	st, err := s.JS.Stream(t.Context(), history.Stream)
	require.NoError(t, err)
	assert.Positive(t, st.CachedInfo().Config.MaxMsgsPerSubject)
	m, err := st.GetMsg(t.Context(), 1)
	require.NoError(t, err)
	assert.Equal(t, "pagestream_history.operator.denied.company", m.Subject)
	assert.Equal(t, []string{"bot erase map[] refused"}, read(t, h, history.Query{Limit: 10}))
}

// TestUnwrittenEntryDelaysByASecond checks that a verb is answered although it can't be put
// on record, and that this is counted.
func TestUnwrittenEntryDelaysByASecond(t *testing.T) {
	s := streamstest.Run(t)
	h := newHistory(t, s)
	// Another stream has the subjects, so the stream can't be made.
	_, err := s.JS.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "OTHER", Subjects: []string{"pagestream_history.>"},
	})
	require.NoError(t, err)
	record(t, h, "bot", "send", 200, nil)
	assert.EqualValues(t, 1, h.Lost())
	s.Halt(t)
	began := time.Now()
	record(t, h, "bot", "send", 200, nil)
	assert.Less(t, time.Since(began), streamstest.Limit/2, "it waits until JetStream's client gives up")
	s.Start(t)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if h.Lost() != 2 {
			return fmt.Errorf("%d are lost", h.Lost())
		}
		return nil
	})
}

// TestSmallStore checks that a store that has no place for a full history keeps a smaller one.
func TestSmallStore(t *testing.T) {
	s := streamstest.Run(t, func(o *embedded.Options) { o.MaxStore = 32 << 20 })
	h := newHistory(t, s)
	record(t, h, "bot", "send", 200, nil)
	assert.Zero(t, h.Lost())
	assert.Len(t, read(t, h, history.Query{Limit: 10}), 1)
}

func TestNothingIsRecordedWithoutAHistory(t *testing.T) {
	var h *history.History
	a := h.Begin(httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil), "bot", "admin", "send")
	a.On("page", "7000")
	a.OnContact("31")
	a.Denied(403)
	a.Done()
	a.End()
	assert.Empty(t, a.ID())
	assert.Nil(t, history.From(t.Context()))
}
