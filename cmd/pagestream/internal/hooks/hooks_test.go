package hooks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

func failPage(page domain.PageID) func(delivery, http.Header) int {
	return func(d delivery, _ http.Header) int {
		if d.Page == page {
			return http.StatusInternalServerError
		}
		return http.StatusNoContent
	}
}

func TestFailingPageKeepsItsOrderAndDelaysNoOther(t *testing.T) {
	r := newFixture(t)
	r.answering(failPage("1"))
	h, _ := r.start(t)
	// More events than fit in a lane, so that the stream is read again.
	bad := r.publish(t, times("1", 3*laneEvents)...)
	good := r.publish(t, times("2", 3*laneEvents)...)
	mixed := r.publish(t, "1", "2", "1", "2")
	bad, good = append(bad, mixed[0], mixed[2]), append(good, mixed[1], mixed[3])
	r.eventually(t, "2", good)
	assert.Empty(t, r.accepted("1"))
	s := eventually(t, h, "retrying", func(s Status) bool { return s.Retrying == 1 && s.Behind == 1 })
	assert.Zero(t, s.Position, "nothing of page 1 is finished")
	assert.False(t, s.RetryingUntil.IsZero())
	assert.Equal(t, "answered 500", s.LastError)
	assert.Eventually(t, func() bool { return h.Status()[0].Lag == mixed[3] }, streamstest.Limit, time.Millisecond)

	r.answering(nil)
	r.eventually(t, "1", bad)
	eventually(t, h, "done", done(mixed[3]))
}

func TestRetryHasTheSameID(t *testing.T) {
	r := newFixture(t)
	r.answering(func(d delivery, _ http.Header) int {
		return []int{500, 302, 404, 204}[min(d.try, 4)-1]
	})
	h, _ := r.start(t)
	seqs := r.publish(t, "1", "1")
	r.eventually(t, "1", seqs)
	var got []string
	for _, d := range r.deliveries() {
		got = append(got, fmt.Sprint(d.ID, " ", d.status))
	}
	var want []string
	for i := range seqs {
		for _, c := range []int{500, 302, 404, 204} {
			want = append(want, fmt.Sprintf("page:1:message:m%d %d", i+1, c))
		}
	}
	assert.Equal(t, want, got)
	s := eventually(t, h, "done", done(seqs[1]))
	assert.EqualValues(t, 2, s.Delivered)
	assert.EqualValues(t, 6, s.Failed)
	assert.Zero(t, s.Retrying)
}

func TestRedirectIsNotFollowed(t *testing.T) {
	r := newFixture(t)
	var elsewhere atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	t.Cleanup(other.Close)
	r.answering(func(_ delivery, h http.Header) int {
		h.Set("Location", other.URL)
		return http.StatusTemporaryRedirect
	})
	h, _ := r.start(t)
	r.publish(t, "1")
	eventually(t, h, "tried", func(s Status) bool { return s.Failed >= 3 && s.LastError == "answered 307" })
	assert.Zero(t, elsewhere.Load())
}

func TestStatus410DisablesUntilEnabled(t *testing.T) {
	r := newFixture(t)
	r.answering(func(delivery, http.Header) int { return http.StatusGone })
	h, stop := r.start(t)
	seqs := r.publish(t, "1", "2", "1")
	s := eventually(t, h, "disabled", func(s Status) bool { return s.Disabled != "" })
	assert.Equal(t, "answered 410", s.Disabled)
	stop()
	tries := len(r.deliveries())
	assert.LessOrEqual(t, tries, 2, "at most one for each page")

	r.answering(nil)
	h, _ = r.start(t)
	assert.NotEmpty(t, h.Status()[0].Disabled, "still disabled after a restart")
	seqs = append(seqs, r.publish(t, "2")...)
	eventually(t, h, "watching", func(s Status) bool { return s.Lag > 0 })
	assert.Len(t, r.deliveries(), tries)

	require.NoError(t, h.Enable("crm"))
	r.eventually(t, "1", []uint64{seqs[0], seqs[2]})
	r.eventually(t, "2", []uint64{seqs[1], seqs[3]})
	assert.Empty(t, h.Status()[0].Disabled)
	assert.ErrorIs(t, h.Enable("other"), ErrUnknownEndpoint)
}

func TestRetryAfterIsRespected(t *testing.T) {
	r := newFixture(t)
	r.answering(func(d delivery, h http.Header) int {
		if d.try > 1 {
			return http.StatusOK
		}
		h.Set("Retry-After", "1")
		return http.StatusServiceUnavailable
	})
	_, _ = r.start(t, func(o *Options) { o.BackoffMax = 10 * time.Second })
	seqs := r.publish(t, "1")
	r.eventually(t, "1", seqs)
	d := r.deliveries()
	assert.GreaterOrEqual(t, d[1].at.Sub(d[0].at), 990*time.Millisecond)
}

func TestRetryAfterIsBounded(t *testing.T) {
	r := newFixture(t)
	r.answering(func(d delivery, h http.Header) int {
		h.Set("Retry-After", "86400")
		return []int{503, 429, 200}[min(d.try, 3)-1]
	})
	r.start(t)
	r.eventually(t, "1", r.publish(t, "1"))
}

func TestTooManyRequestsPausesTheEndpoint(t *testing.T) {
	r := newFixture(t)
	r.answering(func(d delivery, h http.Header) int {
		if d.Seq > 1 || d.try > 1 {
			return http.StatusOK
		}
		h.Set("Retry-After", "1")
		return http.StatusTooManyRequests
	})
	h, _ := r.start(t, func(o *Options) { o.BackoffMax = 10 * time.Second })
	r.publish(t, "1")
	eventually(t, h, "limited", func(s Status) bool { return s.Failed == 1 })
	second := r.publish(t, "2")
	r.eventually(t, "2", second)
	d := r.deliveries()
	assert.GreaterOrEqual(t, d[1].at.Sub(d[0].at), 900*time.Millisecond)
}

func TestGivenUpEventIsADeadLetterThatCanBeRedriven(t *testing.T) {
	r := newFixture(t)
	r.answering(func(d delivery, _ http.Header) int {
		if d.Seq == 1 || d.Seq == 3 {
			return http.StatusBadRequest
		}
		return http.StatusOK
	})
	h, stop := r.start(t, func(o *Options) { o.MaxAttempts = 3 })
	seqs := r.publish(t, "1", "1", "2", "2")
	r.eventually(t, "1", seqs[1:2])
	r.eventually(t, "2", seqs[3:])
	s := eventually(t, h, "done", done(4))
	assert.Equal(t, 2, s.DeadLetters)
	assert.EqualValues(t, 6, s.Failed)

	list, err := h.DeadLetters("crm", 0, 10)
	require.NoError(t, err)
	require.Len(t, list, 2)
	list[0].At = time.Time{}
	assert.Equal(t, DeadLetter{
		Seq: 1, ID: "page:1:message:m1", Type: domain.MessageReceived, Page: "1",
		Attempts: 3, LastError: "answered 400",
	}, list[0])
	list, err = h.DeadLetters("crm", 1, 1)
	require.NoError(t, err)
	assert.EqualValues(t, 3, list[0].Seq)
	_, err = h.DeadLetters("other", 0, 1)
	require.ErrorIs(t, err, ErrUnknownEndpoint)

	// A redrive that fails leaves the dead letter, and the page goes on.
	_, err = h.Redrive("crm", 2)
	require.ErrorIs(t, err, ErrNoDeadLetter)
	_, err = h.Redrive("other", 1)
	require.ErrorIs(t, err, ErrUnknownEndpoint)
	n, err := h.Redrive("crm", 1)
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		list, err := h.DeadLetters("crm", 0, 1)
		if err != nil || len(list) != 1 || list[0].Attempts != 4 || list[0].Redriving {
			return fmt.Errorf("%+v: %w", list, err)
		}
		return nil
	})
	next := r.publish(t, "1")
	r.eventually(t, "1", []uint64{2, next[0]})

	// After a restart, all are redriven.
	stop()
	raw, err := os.ReadFile(r.path)
	require.NoError(t, err)
	assert.NotContains(t, string(raw), private)
	r.answering(nil)
	h, _ = r.start(t)
	assert.Equal(t, 2, h.Status()[0].DeadLetters)
	n, err = h.Redrive("crm", 0)
	require.NoError(t, err)
	assert.Equal(t, 2, n)
	r.eventually(t, "1", []uint64{2, next[0], 1})
	r.eventually(t, "2", []uint64{4, 3})
	eventually(t, h, "no dead letters", func(s Status) bool { return s.DeadLetters == 0 })
}

func TestRedriveSurvivesARestart(t *testing.T) {
	r := newFixture(t)
	r.answering(failPage("1"))
	h, stop := r.start(t, func(o *Options) { o.MaxAttempts = 1 })
	r.publish(t, "1", "1")
	eventually(t, h, "dead", func(s Status) bool { return s.DeadLetters == 2 })
	stop()
	// The redrive is recorded while Run is not running.
	h, err := New(r.options())
	require.NoError(t, err)
	_, err = h.Redrive("crm", 0)
	require.NoError(t, err)
	require.NoError(t, h.Close())
	r.answering(nil)
	h, _ = r.start(t)
	r.eventually(t, "1", []uint64{1, 2})
	eventually(t, h, "no dead letters", func(s Status) bool { return s.DeadLetters == 0 })
}

func TestGiveUpByTime(t *testing.T) {
	r := newFixture(t)
	r.answering(failPage("1"))
	h, _ := r.start(t, func(o *Options) { o.GiveUpAfter = 30 * time.Millisecond })
	r.publish(t, "1")
	s := eventually(t, h, "dead", func(s Status) bool { return s.DeadLetters == 1 && s.Behind == 0 })
	assert.Greater(t, s.Failed, uint64(1))
}

func TestDeadLettersAreBounded(t *testing.T) {
	r := newFixture(t)
	r.answering(failPage("1"))
	h, _ := r.start(t, func(o *Options) { o.MaxAttempts, o.MaxDeadLetters = 1, 1 })
	seqs := r.publish(t, "1", "1")
	eventually(t, h, "full", func(s Status) bool {
		return s.DeadLetters == 1 && s.Failed > 4 && strings.Contains(s.LastError, "too many dead letters")
	})
	r.answering(nil)
	r.eventually(t, "1", seqs[1:])
}

func TestEventThatCannotBeEncodedIsGivenUp(t *testing.T) {
	r := newFixture(t)
	h, _ := r.start(t, func(o *Options) {
		o.MaxAttempts = 2
		o.Encode = func(e streams.Stored) ([]byte, error) {
			if e.Seq == 1 {
				return nil, errors.New(private)
			}
			return encode(e)
		}
	})
	seqs := r.publish(t, "1", "1")
	r.eventually(t, "1", seqs[1:])
	list, err := h.DeadLetters("crm", 0, 0)
	require.NoError(t, err)
	require.Len(t, list, 1)
	assert.Equal(t, "event can't be encoded", list[0].LastError)
}

func TestRestartMissesAndRepeatsNothing(t *testing.T) {
	r := newFixture(t)
	r.answering(failPage("1"))
	_, stop := r.start(t)
	bad := r.publish(t, times("1", 5)...)
	good := r.publish(t, times("2", 5)...)
	r.eventually(t, "2", good)
	stop()
	bad = append(bad, r.publish(t, "1")...)
	good = append(good, r.publish(t, "2", "2")...)
	r.answering(nil)
	h, _ := r.start(t)
	r.eventually(t, "1", bad)
	r.eventually(t, "2", good) // exactly these: delivered events are not repeated
	eventually(t, h, "done", done(13))
}

func TestCrashMissesNothingAndKeepsTheOrder(t *testing.T) {
	r := newFixture(t)
	h, stop := r.start(t)
	var pages []domain.PageID
	for i := range 600 {
		pages = append(pages, domain.PageID(fmt.Sprint(i%7+1)))
	}
	r.publish(t, pages[:300]...)
	eventually(t, h, "begun", func(s Status) bool { return s.Position > 50 })
	// A copy of the file, as a crash would leave it.
	crashed := filepath.Join(t.TempDir(), "crashed.db")
	f, err := os.Create(crashed)
	require.NoError(t, err)
	_, err = h.store.WriteTo(f)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	stop()
	before := map[uint64]bool{}
	for _, seq := range r.accepted("") {
		before[seq] = true
	}
	r.receiver.mu.Lock()
	r.all = nil
	r.receiver.mu.Unlock()

	h, _ = r.start(t, func(o *Options) { o.Path = crashed })
	r.publish(t, pages[300:]...)
	eventually(t, h, "done", done(600))
	seen := before
	last := map[domain.PageID]uint64{}
	for _, d := range r.deliveries() {
		assert.Greater(t, d.Seq, last[d.Page], "order of page %s", d.Page)
		last[d.Page], seen[d.Seq] = d.Seq, true
	}
	assert.Len(t, seen, 600)
}

func TestNewEndpointStartsAtTheHead(t *testing.T) {
	r := newFixture(t)
	r.publish(t, "1", "1")
	h, stop := r.start(t, func(o *Options) { o.Endpoints[0].From = 0 })
	eventually(t, h, "begun", done(2))
	third := r.publish(t, "1")
	r.eventually(t, "", third)
	stop()
	// From has no effect on an endpoint that has a position.
	h, _ = r.start(t)
	fourth := r.publish(t, "1")
	r.eventually(t, "", append(third, fourth...))
	eventually(t, h, "done", done(4))
}

func TestOtherStreamIdentityResetsThePosition(t *testing.T) {
	r := newFixture(t)
	h, stop := r.start(t)
	r.publish(t, "1", "1")
	eventually(t, h, "done", done(2))
	stop()
	h, _ = r.start(t, func(o *Options) { o.Identity, o.Endpoints[0].From = "other", 2 })
	r.eventually(t, "", []uint64{1, 2, 2})
	eventually(t, h, "done", done(2))
	assert.Contains(t, r.logs.String(), "another one")
}

// TestEndpointWaitsForItsFirstEvent checks that an endpoint whose From is beyond the head gets nothing
// before it, also after a restart.
func TestEndpointWaitsForItsFirstEvent(t *testing.T) {
	r := newFixture(t)
	from := func(o *Options) { o.Endpoints[0].From = 5 }
	_, stop := r.start(t, from)
	r.publish(t, "1", "1")
	stop()
	h, _ := r.start(t, from)
	r.publish(t, "1", "1", "1", "1")
	r.eventually(t, "", []uint64{5, 6})
	eventually(t, h, "done", done(6))
	assert.Len(t, r.accepted(""), 2)
}

func TestEndpointsAreFilteredAndIndependent(t *testing.T) {
	r := newFixture(t)
	other := newReceiver(t)
	other.answering(failPage("1"))
	h, _ := r.start(t, func(o *Options) {
		o.Endpoints[0].All, o.Endpoints[0].Pages = false, []domain.PageID{"1", "3"}
		o.Endpoints = append(o.Endpoints, Endpoint{
			Name: "other", URL: other.URL, Secrets: []string{other.secret}, All: true, From: 1,
		})
		o.Endpoints = append(o.Endpoints, Endpoint{
			Name: "none", URL: other.URL, Secrets: []string{other.secret}, From: 1, All: true,
			Types: []domain.Type{domain.MessageEdited},
		})
	})
	r.publish(t, "1", "2", "3", "2", "2")
	r.receiver.eventually(t, "1", []uint64{1})
	r.receiver.eventually(t, "3", []uint64{3})
	other.eventually(t, "2", []uint64{2, 4, 5})
	// The position moves past events that the endpoint does not want.
	streamstest.Eventually(t, streamstest.Limit, func() error {
		s := h.Status()
		if s[0].Position != 5 || s[0].Lag != 0 || s[2].Position != 5 || s[1].Position != 0 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	assert.Equal(t, strings.TrimPrefix(other.URL, "http://"), h.Status()[1].Host)
	assert.Len(t, r.accepted(""), 2)
}

func TestErasedEventIsNotTriedAgain(t *testing.T) {
	r := newFixture(t)
	r.answering(func(delivery, http.Header) int { return http.StatusInternalServerError })
	h, _ := r.start(t)
	seqs := r.publish(t, "1", "1")
	eventually(t, h, "retrying", func(s Status) bool { return s.Retrying == 1 })
	ctx, cancel := projectionstest.Limited()
	defer cancel()
	n, err := streams.Erase(ctx, r.JS, streams.Name, seqs[:1], func(streams.Stored) bool { return true })
	require.NoError(t, err)
	require.Equal(t, 1, n)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if d := r.deliveries(); d[len(d)-1].Seq != seqs[1] {
			return errors.New("the erased event is still tried")
		}
		return nil
	})
	r.answering(nil)
	r.eventually(t, "1", seqs[1:])
}

// TestAnEventThatIsBeingSentIsNotCalledBack checks the limit of an erasure: a receiver that was given an event before has
// it. The erased event is not sent again, and the events after it are.
func TestAnEventThatIsBeingSentIsNotCalledBack(t *testing.T) {
	r := newFixture(t)
	asked, release := make(chan struct{}, 1), make(chan struct{})
	first := sync.OnceFunc(func() {
		asked <- struct{}{}
		<-release
	})
	r.answering(func(delivery, http.Header) int {
		first()
		return http.StatusOK
	})
	r.start(t)
	seqs := r.publish(t, "1", "1")
	<-asked
	n, err := streams.Erase(t.Context(), r.JS, streams.Name, seqs[:1], func(streams.Stored) bool { return true })
	close(release)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	r.eventually(t, "1", seqs)
}

func TestSlowAnswerTimesOut(t *testing.T) {
	r := newFixture(t)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	r.answering(func(d delivery, _ http.Header) int {
		if d.Page == "1" {
			<-release
		}
		return http.StatusOK
	})
	h, _ := r.start(t, func(o *Options) {
		o.Endpoints[0].Timeout, o.MaxAttempts = 50*time.Millisecond, 1
	})
	r.publish(t, "1")
	s := eventually(t, h, "given up", func(s Status) bool { return s.DeadLetters == 1 })
	assert.Equal(t, "timed out", s.LastError)
	r.eventually(t, "2", r.publish(t, "2"))
}

func TestShutdownWaitsForATry(t *testing.T) {
	r := newFixture(t)
	asked, release := make(chan struct{}, 1), make(chan struct{})
	r.answering(func(delivery, http.Header) int {
		asked <- struct{}{}
		<-release
		return http.StatusOK
	})
	h, err := New(r.options())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	r.publish(t, "1")
	<-asked
	cancel()
	close(release)
	require.NoError(t, <-ended)
	assert.EqualValues(t, 1, h.Status()[0].Position)
	assert.EqualValues(t, 1, h.Status()[0].Delivered)
	require.ErrorIs(t, h.Run(t.Context()), ErrRan)
	require.NoError(t, h.Close())
	require.NoError(t, h.Close())
}

func TestDeliveryGoesOnAfterAServerRestart(t *testing.T) {
	r := newFixture(t)
	r.start(t)
	seqs := r.publish(t, "1")
	r.eventually(t, "", seqs)
	r.Rig.Halt(t)
	r.Rig.Start(t)
	seqs = append(seqs, r.publish(t, "1")...)
	r.eventually(t, "", seqs)
}

func TestManyPagesInParallel(t *testing.T) {
	r := newFixture(t)
	var n atomic.Int32
	r.answering(func(delivery, http.Header) int {
		if n.Add(1)%8 == 0 {
			return http.StatusBadGateway
		}
		return http.StatusOK
	})
	h, _ := r.start(t)
	want := map[domain.PageID][]uint64{}
	for range 5 {
		var pages []domain.PageID
		for i := range 100 {
			pages = append(pages, domain.PageID(fmt.Sprint(i*i%23+1)))
		}
		for i, seq := range r.publish(t, pages...) {
			want[pages[i]] = append(want[pages[i]], seq)
		}
	}
	eventually(t, h, "done", done(500))
	for page, seqs := range want {
		assert.Equal(t, seqs, r.accepted(page))
	}
	h.endpoints[0].mu.Lock()
	defer h.endpoints[0].mu.Unlock()
	assert.Zero(t, h.endpoints[0].events)
	assert.Zero(t, h.endpoints[0].bytes)
	assert.Empty(t, h.endpoints[0].lanes)
}

func TestNewRefuses(t *testing.T) {
	r := newFixture(t)
	for name, c := range map[string]struct {
		change func(*Options)
		want   error
	}{
		"no encode":    {func(o *Options) { o.Encode = nil }, ErrOptions},
		"no path":      {func(o *Options) { o.Path = "" }, ErrOptions},
		"no name":      {func(o *Options) { o.Endpoints[0].Name = "" }, ErrOptions},
		"twice":        {func(o *Options) { o.Endpoints = append(o.Endpoints, o.Endpoints[0]) }, ErrOptions},
		"other scheme": {func(o *Options) { o.Endpoints[0].URL = "ftp://x/" + private }, ErrOptions},
		"with a user":  {func(o *Options) { o.Endpoints[0].URL = "http://u:" + private + "@x/" }, ErrOptions},
		"no url":       {func(o *Options) { o.Endpoints[0].URL = "http://" + private + "\x00" }, ErrOptions},
		"no type":      {func(o *Options) { o.Endpoints[0].Types = []domain.Type{"x.y"} }, ErrOptions},
		"empty page":   {func(o *Options) { o.Endpoints[0].Pages = []domain.PageID{""} }, ErrOptions},
		"no pages":     {func(o *Options) { o.Endpoints[0].All = false }, ErrOptions},
		"empty list":   {func(o *Options) { o.Endpoints[0].All, o.Endpoints[0].Pages = false, []domain.PageID{} }, ErrOptions},
		"all of none":  {func(o *Options) { o.Endpoints[0].Pages = []domain.PageID{} }, ErrOptions},
		"all and one":  {func(o *Options) { o.Endpoints[0].Pages = []domain.PageID{"1"} }, ErrOptions},
		"empty types":  {func(o *Options) { o.Endpoints[0].Types = []domain.Type{} }, ErrOptions},
		"empty type":   {func(o *Options) { o.Endpoints[0].Types = []domain.Type{""} }, ErrOptions},
		"no secret":    {func(o *Options) { o.Endpoints[0].Secrets = nil }, ErrSecret},
		"bad secret":   {func(o *Options) { o.Endpoints[0].Secrets = []string{private} }, ErrSecret},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(r.options(c.change))
			require.ErrorIs(t, err, c.want)
			assert.NotContains(t, err.Error(), private)
		})
	}
	h, err := New(r.options()) // the failed calls have released the file
	require.NoError(t, err)
	require.NoError(t, h.Close())
	require.ErrorIs(t, h.Run(t.Context()), ErrRan)
}

// TestAnEndpointWithoutPagesMustSayAll checks the error for a file of before there was "all", that
// nothing is written then, and that the endpoint continues at its position after "all: true" is added.
func TestAnEndpointWithoutPagesMustSayAll(t *testing.T) {
	r := newFixture(t)
	_, stop := r.start(t)
	r.publish(t, "1", "2")
	r.receiver.eventually(t, "2", []uint64{2})
	stop()
	_, err := New(r.options(func(o *Options) { o.Endpoints[0].All = false }))
	require.ErrorIs(t, err, ErrOptions)
	require.ErrorContains(t, err, "all: true")
	r.publish(t, "3")
	r.start(t)
	r.receiver.eventually(t, "3", []uint64{3})
	require.Equal(t, []uint64{1}, r.accepted("1"))
}

func TestStatusNamesUnknownPages(t *testing.T) {
	r := newFixture(t)
	h, _ := r.start(t, func(o *Options) {
		o.Endpoints[0].All, o.Endpoints[0].Pages = false, []domain.PageID{"1", "9"}
		o.KnowsPage = func(page domain.PageID) bool { return page == "1" }
	})
	require.Equal(t, []domain.PageID{"9"}, h.Status()[0].UnknownPages)
}

// TestCompanyOfAnEndpoint checks what an endpoint with a company must and must not say, and that the parts that
// it needs are there.
func TestCompanyOfAnEndpoint(t *testing.T) {
	r := newFixture(t)
	change := func(f func(*Options)) error {
		h, err := New(r.options(func(o *Options) {
			o.Endpoints[0].All, o.Endpoints[0].Company = false, "acme"
			f(o)
		}))
		if err == nil {
			require.NoError(t, h.Close())
		}
		return err
	}
	parts := func(o *Options) {
		o.Pages = noPages{}
		o.FindCompany = func(name string) (string, bool) { return "first name of " + name, name == "acme" }
	}
	require.NoError(t, change(parts))
	require.ErrorContains(t, change(func(*Options) {}), "FindCompany")
	require.ErrorContains(t, change(func(o *Options) { parts(o); o.Endpoints[0].All = true }), "company and all: true")
	require.ErrorContains(t, change(func(o *Options) {
		parts(o)
		o.Endpoints[0].Pages = []domain.PageID{}
	}), "pages is an empty list")

	e := Endpoint{Company: "acme", Pages: []domain.PageID{"1"}}
	assert.Nil(t, e.filters(), "which pages a company has changes")
	e.Types = []domain.Type{domain.MessageReceived}
	assert.ElementsMatch(t, streams.Filter("", domain.MessageReceived, domain.ContactErased), e.filters(),
		"whoever keeps messages must know which ones not to keep")

	for name, want := range map[Company]string{"acme": "", "unknown": "unknown"} {
		h, err := New(r.options(func(o *Options) {
			parts(o)
			o.Endpoints[0].All, o.Endpoints[0].Company = false, name
		}))
		require.NoError(t, err)
		assert.Equal(t, want, h.Status()[0].UnknownCompany)
		assert.Equal(t, name == "acme", h.endpoints[0].company == "first name of acme")
		require.NoError(t, h.Close())
	}
}

// noPages is a read model of pages that is not read.
type noPages struct{ meta.PagesModel }

func TestTooManyFiltersAreNotSentToTheServer(t *testing.T) {
	e := Endpoint{Pages: slices.Repeat([]domain.PageID{"1"}, 2*maxFilters)}
	assert.Equal(t, streams.Filter("1"), e.filters())
	e.Pages = nil
	for i := range maxFilters + 1 {
		e.Pages = append(e.Pages, domain.PageID(fmt.Sprint(i+1)))
	}
	assert.Nil(t, e.filters())
	wants := func(s streams.Stored) bool { return e.selection("").Wants(s, pages.Ownership{}) }
	assert.False(t, wants(streams.Stored{Event: domain.Event{Page: "9999"}}))
	assert.True(t, wants(streams.Stored{Event: domain.Event{Page: "7"}}))
}

func TestHangingPagesLeaveHalfOfTheTriesToOthers(t *testing.T) {
	r := newFixture(t)
	hang := make(chan struct{})
	r.hangs = true
	t.Cleanup(func() { close(hang) })
	r.answering(func(d delivery, _ http.Header) int {
		if d.Page != "9" {
			<-hang // longer than the timeout of a try
		}
		return http.StatusOK
	})
	h, _ := r.start(t, func(o *Options) {
		o.Endpoints[0].Timeout, o.Concurrency = time.Second, 4
	})
	r.publish(t, "1", "2", "3", "4", "5", "6", "7", "8")
	eventually(t, h, "all retrying", func(s Status) bool { return s.Retrying == 8 })
	// Half of the tries are free, so each event is delivered at once.
	begun := time.Now()
	var want []uint64
	for range 10 {
		want = append(want, r.publish(t, "9")...)
		r.eventually(t, "9", want)
	}
	t.Logf("ten events of another page took %s", time.Since(begun))
	assert.Less(t, time.Since(begun), 10*time.Second, "each waited for a try that hangs")
}

func TestPositionAfterTheHeadIsReset(t *testing.T) {
	r := newFixture(t)
	r.answering(failPage("1"))
	h, stop := r.start(t)
	seqs := r.publish(t, "1", "2")
	eventually(t, h, "retrying", func(s Status) bool { return s.Retrying == 1 && s.Delivered == 1 })
	stop()
	h, err := New(r.options())
	require.NoError(t, err)
	h.endpoints[0].read = 99
	r.answering(nil)
	running(t, h)
	eventually(t, h, "reset", done(seqs[1]))
	r.eventually(t, "1", r.publish(t, "1"))
	eventually(t, h, "done", done(3))
}

func TestNothingIsDeliveredWhilePositionsCannotBeWritten(t *testing.T) {
	r := newFixture(t)
	h, err := New(r.options())
	require.NoError(t, err)
	e := h.endpoints[0]
	e.known, e.dirty = true, true
	require.NoError(t, h.store.Close())
	require.ErrorIs(t, h.flush(), store.ErrClosed)
	assert.True(t, e.unwritten)
	assert.True(t, e.dirty)
	e.push(e.lane("1"), streams.Stored{Seq: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	defer context.AfterFunc(ctx, e.wake)()
	assert.Nil(t, e.take(ctx))
	e.markWritten()
	assert.NotNil(t, e.take(t.Context()))
	require.NoError(t, h.Close())
}

func TestRunEndsWithTheConnection(t *testing.T) {
	r := newFixture(t)
	nc := r.Connection(t)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	r.answering(failPage("1"))
	h, err := New(r.options(func(o *Options) {
		o.JS = js
		o.Endpoints = append(o.Endpoints, Endpoint{Name: "other", URL: r.URL, Secrets: []string{r.secret}, All: true})
	}))
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- h.Run(t.Context()) }()
	r.publish(t, "1")
	eventually(t, h, "retrying", func(s Status) bool { return s.Retrying == 1 })
	nc.Close()
	select {
	case err := <-ended:
		require.ErrorIs(t, err, streams.ErrClosed)
	case <-time.After(streamstest.Limit):
		require.Fail(t, "Run does not end")
	}
	require.NoError(t, h.Close())
}

func TestEnableEndsEveryPause(t *testing.T) {
	r := newFixture(t)
	r.answering(func(d delivery, _ http.Header) int {
		return map[domain.PageID]int{"1": http.StatusTooManyRequests, "2": http.StatusInternalServerError}[d.Page]
	})
	h, _ := r.start(t, func(o *Options) { o.BackoffMin, o.BackoffMax = time.Hour, time.Hour })
	two := r.publish(t, "2")
	eventually(t, h, "retrying", func(s Status) bool { return s.Failed == 1 })
	one := r.publish(t, "1")
	streamstest.Eventually(t, streamstest.Limit, func() error {
		e := h.endpoints[0]
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, page := range []domain.PageID{"1", "2"} {
			if l := e.lanes[page]; l == nil || l.state != waiting || !e.paused {
				return fmt.Errorf("page %s does not wait", page)
			}
		}
		return nil
	})
	r.answering(nil)
	require.NoError(t, h.Enable("crm"))
	r.eventually(t, "1", one)
	r.eventually(t, "2", two)
}

// TestInternalEventsAreSentByNameOnly checks that an endpoint gets page.* only if it names the types, and what
// another app delivered never.
func TestInternalEventsAreSentByNameOnly(t *testing.T) {
	for _, types := range [][]domain.Type{nil, {domain.PageConnected, domain.MessageReceived}} {
		r := newFixture(t)
		connected := r.Publish(t, domain.Event{
			ID: "c", Type: domain.PageConnected, Page: "1",
			Data: domain.Data{Connection: &domain.Connection{Company: "acme", Secret: "s"}},
		}, domain.Event{
			ID: "foreign:2:c", Type: domain.ForeignReceived, Page: "1", Original: domain.MessageReceived, OriginalID: "c2",
		})[0].Seq
		want := r.publish(t, "1")
		if types != nil {
			want = append([]uint64{connected}, want...)
		}
		h, _ := r.start(t, func(o *Options) {
			o.Endpoints[0].Types = types
			o.Encode = func(e streams.Stored) ([]byte, error) {
				if c := e.Data.Connection; c != nil {
					assert.Equal(t, &domain.Connection{Company: "acme", Secret: "s"}, c)
				}
				return encode(e)
			}
		})
		r.eventually(t, "", want)
		eventually(t, h, "done", done(want[len(want)-1]))
	}
	_, err := New(newFixture(t).options(func(o *Options) { o.Endpoints[0].Types = []domain.Type{domain.ForeignReceived} }))
	require.ErrorIs(t, err, ErrOptions)
}

// TestRolledBackStreamIsReadAgain replaces the stream by an older copy that goes on with other events: an
// endpoint gets each of those once, whether it is started afterwards, runs meanwhile and is told, or finds out by
// itself; and what waits for a page that fails is sent if the stream still has it.
func TestRolledBackStreamIsReadAgain(t *testing.T) {
	for _, how := range []string{"stopped", "told", "not told"} {
		t.Run(how, func(t *testing.T) {
			stopped := how == "stopped"
			r := newFixture(t)
			// A try that has just begun when the server stops would wait for an answer.
			rarely := func(o *Options) { o.BackoffMin, o.BackoffMax = time.Second, time.Second }
			h, stop := r.start(t, rarely)
			r.answering(failPage("1"))
			r.publish(t, append(times("1", 3), times("2", 20)...)...)
			eventually(t, h, "read", func(s Status) bool { return s.Delivered == 20 })
			dir := filepath.Join(r.Dir, "jetstream", "$G", "streams", streams.Name)
			r.Halt(t)
			older := t.TempDir()
			require.NoError(t, os.CopyFS(older, os.DirFS(dir)))
			r.Rig.Server.Start(t)
			r.publish(t, append(times("1", 2), times("2", 10)...)...) // they get lost
			eventually(t, h, "read", func(s Status) bool { return s.Delivered == 30 })
			if stopped {
				stop()
			}
			r.Halt(t)
			require.NoError(t, os.RemoveAll(dir))
			require.NoError(t, os.CopyFS(dir, os.DirFS(older)))
			r.Rig.Server.Start(t)
			var want []string
			for i := range 15 {
				e := domain.Event{ID: fmt.Sprint("other", i), Type: domain.MessageReceived, Page: "2", Contact: "77"}
				m, err := streams.Encode(e)
				require.NoError(t, err)
				_, err = r.JS.PublishMsg(t.Context(), m)
				require.NoError(t, err)
				want = append(want, e.ID)
			}
			r.answering(nil)
			switch how {
			case "stopped":
				h, _ = r.start(t)
			case "told":
				h.Recheck()
			}
			eventually(t, h, "done", done(38))
			got := map[string]int{}
			for _, d := range r.deliveries() {
				if d.status < 300 {
					got[d.ID]++
				}
			}
			for _, id := range want {
				assert.Equal(t, 1, got[id], id)
			}
			for i := range 3 {
				assert.Equal(t, 1, got[fmt.Sprintf("page:1:message:m%d", i+1)], "it waited")
			}
			assert.Contains(t, r.logs.String(), "other events")
			assert.NotContains(t, got, "page:1:message:m24", "the stream does not have it any more")
		})
	}
}
