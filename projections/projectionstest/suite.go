package projectionstest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams"
)

// Run tests a projection with the given events, or with [Events] if there are none. It checks that the same
// events give the same digest
//
//   - when they are applied again, and by another instance of the projection;
//   - however they are split into commits;
//   - when any part of them is delivered again;
//   - after a transaction that failed or panicked, and after the file was closed and opened again;
//   - after the process was killed at any time;
//   - after a contact was erased, whether its events were applied or, as in a rebuild, only their
//     tombstones.
//
// It also checks that Apply does not modify events, and that no event, however invalid, makes Apply fail.
//
// makeProjection must return a new value each time. For the test that kills the process, the test binary
// runs itself as a child, with the arguments that run the calling test.
func Run(t *testing.T, makeProjection func() projections.Projection, events []streams.Stored) {
	t.Helper()
	if name := os.Getenv(childEnv); name != "" {
		if name == makeProjection().Name() {
			child(t, makeProjection())
		}
		return
	}
	if len(events) == 0 {
		events = Events(1, 400)
	}
	s := &suite{make: makeProjection, dir: t.TempDir()}
	t.Run("Deterministic", func(t *testing.T) { s.deterministic(t, events) })
	t.Run("AnySplit", func(t *testing.T) { s.anySplit(t, events) })
	t.Run("Redelivery", func(t *testing.T) { s.redelivery(t, events) })
	t.Run("Rollback", func(t *testing.T) { s.rollback(t, events) })
	t.Run("Erased", func(t *testing.T) { s.erased(t, events) })
	t.Run("Garbage", s.garbage)
	test := t.Name()
	t.Run("Killed", func(t *testing.T) { s.killed(t, test) })
}

// identity is the stream identity in the suite's stores.
const identity = "projectionstest"

// Fold applies events to a store and writes the position in one transaction, as a runner does. It skips the
// events that are already applied.
func Fold(s *store.Store, p projections.Projection, events []streams.Stored) error {
	return s.Update(func(tx *store.Tx) error { return fold(tx, p, events) })
}

func fold(tx *store.Tx, p projections.Projection, events []streams.Stored) error {
	meta, _, err := store.ReadMeta(tx)
	if err != nil {
		return err
	}
	for _, e := range events {
		if e.Seq <= meta.Seq {
			continue
		}
		if err := p.Apply(tx, e); err != nil {
			return fmt.Errorf("apply event %d (%s): %w", e.Seq, e.Type, err)
		}
		meta.Seq = e.Seq
	}
	meta.Identity, meta.Version = identity, p.Version()
	return store.WriteMeta(tx, meta)
}

// Digest returns the digest of a read model and the sequence of the last event in it.
func Digest(s *store.Store) (digest string, seq uint64, err error) {
	err = s.View(func(tx *store.Tx) error {
		meta, _, err := store.ReadMeta(tx)
		if err != nil {
			return err
		}
		seq = meta.Seq
		digest, err = store.Digest(tx)
		return err
	})
	return digest, seq, err
}

// Open opens a store for a test, with a small memory map and without fsync. It is closed at the end of the
// test.
func Open(t testing.TB, path string) *store.Store {
	t.Helper()
	s, err := open(path)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	return s
}

func open(path string) (*store.Store, error) {
	return store.Open(path, store.Options{NoSync: true, MapSize: 64 << 20})
}

type suite struct {
	make  func() projections.Projection
	dir   string
	files atomic.Int64
}

// withStore calls f with an empty store.
func (s *suite) withStore(t rapid.TB, f func(path string, st *store.Store)) {
	t.Helper()
	path := filepath.Join(s.dir, fmt.Sprintf("%d.db", s.files.Add(1)))
	st, err := open(path)
	require.NoError(t, err, "open store")
	defer os.Remove(path)
	defer closeStore(t, st)
	f(path, st)
}

func closeStore(t rapid.TB, st *store.Store) {
	t.Helper()
	require.NoError(t, st.Close(), "close store")
}

// digest applies events to an empty store, each part in one commit and by a new instance of the projection,
// and returns the digest.
func (s *suite) digest(t rapid.TB, parts ...[]streams.Stored) string {
	t.Helper()
	var digest string
	s.withStore(t, func(_ string, st *store.Store) {
		for _, part := range parts {
			s.fold(t, st, part)
		}
		digest = digestOf(t, st)
	})
	return digest
}

func (s *suite) fold(t rapid.TB, st *store.Store, events []streams.Stored) {
	t.Helper()
	p := s.make()
	require.NoError(t, attempt(st, func(tx *store.Tx) error { return fold(tx, p, events) }))
}

func digestOf(t rapid.TB, st *store.Store) string {
	t.Helper()
	d, _, err := Digest(st)
	require.NoError(t, err)
	return d
}

func (s *suite) deterministic(t *testing.T, events []streams.Stored) {
	t.Helper()
	before := encode(t, events)
	want := s.digest(t, events)
	require.Equal(t, before, encode(t, events), "Apply modified an event, which other projections share")
	require.Equal(t, want, s.digest(t, events), "the same events applied again")
	p := s.make()
	for range 2 { // one instance with two stores: it must not keep state
		s.withStore(t, func(_ string, st *store.Store) {
			for _, e := range events {
				require.NoError(t, Fold(st, p, []streams.Stored{e}))
			}
			require.Equal(t, want, digestOf(t, st), "one commit per event, by one instance")
		})
	}
	if empty := s.digest(t, nil); want == empty && len(events) > 0 {
		t.Log("these events change nothing in the read model")
	}
}

// encode returns the events as JSON, with everything that they point to.
func encode(t testing.TB, events []streams.Stored) string {
	t.Helper()
	b, err := json.Marshal(events)
	require.NoError(t, err)
	return string(b)
}

// split splits events into parts of random length.
func split(t *rapid.T, events []streams.Stored) [][]streams.Stored {
	var parts [][]streams.Stored
	for len(events) > 0 {
		n := rapid.IntRange(1, len(events)).Draw(t, "part")
		parts = append(parts, events[:n])
		events = events[n:]
	}
	return parts
}

func (s *suite) anySplit(t *testing.T, events []streams.Stored) {
	t.Helper()
	want := s.digest(t, events)
	rapid.Check(t, func(t *rapid.T) {
		require.Equal(t, want, s.digest(t, split(t, events)...), "events in other commits")
	})
	rapid.Check(t, func(t *rapid.T) {
		events := Events(rapid.Uint64().Draw(t, "seed"), rapid.IntRange(1, 120).Draw(t, "events"))
		require.Equal(t, s.digest(t, events), s.digest(t, split(t, events)...), "other events, in other commits")
	})
}

func (s *suite) redelivery(t *testing.T, events []streams.Stored) {
	t.Helper()
	want := s.digest(t, events)
	rapid.Check(t, func(t *rapid.T) {
		upto := rapid.IntRange(0, len(events)).Draw(t, "upto")
		from := rapid.IntRange(0, upto).Draw(t, "redelivered from")
		s.withStore(t, func(_ string, st *store.Store) {
			s.fold(t, st, events[:upto])
			before := digestOf(t, st)
			s.fold(t, st, events[from:upto])
			require.Equal(t, before, digestOf(t, st), "applied events delivered again")
			s.fold(t, st, events[from:])
			require.Equal(t, want, digestOf(t, st), "applied events delivered again with the rest")
		})
	})
}

// errAbort is returned, or panicked with, to abort a transaction.
var errAbort = errors.New("aborted")

// erased inserts the erasure of a contact, or of the id of a person who connected a page, at a random place in
// the history. The erasure lists some of the contact's events, or all that name the person, and some of those
// are deleted from the stream.
func (s *suite) erased(t *testing.T, events []streams.Stored) {
	connections := slices.DeleteFunc(slices.Clone(events), func(e streams.Stored) bool { return e.Type.Noun() != "page" })
	rapid.Check(t, func(t *rapid.T) {
		kind, events := domain.ContactErased, events
		if len(connections) > 0 && rapid.Bool().Draw(t, "admin") {
			kind, events = domain.PageAdminErased, connections
		}
		events = events[:min(len(events), 150)] // each check applies them twice
		first := events[rapid.IntRange(0, len(events)-1).Draw(t, "first")]
		at := rapid.IntRange(0, len(events)).Draw(t, "erasure")
		late := rapid.IntRange(0, at).Draw(t, "unlisted from")
		erasure := &domain.Erasure{Contact: domain.ContactHash(first.Contact), Part: 1, Parts: 1}
		deleted := make(map[uint64]domain.Tombstone)
		for i, e := range events[:at] {
			switch {
			case e.Page != first.Page:
				continue
			case kind == domain.PageAdminErased:
				if adminOf(e) == "" || adminOf(e) != adminOf(first) {
					continue
				}
			case i >= late || e.Contact != first.Contact || e.Contact == "" || e.Data.Test || e.Type == domain.ContactErased:
				continue
			}
			tombstone := domain.NewTombstone(e.Event, e.Seq, e.At)
			erasure.Events = append(erasure.Events, tombstone)
			if rapid.IntRange(0, 9).Draw(t, "deleted") > 0 {
				deleted[e.Seq] = tombstone
			}
		}
		record := streams.Stored{Event: domain.Event{
			ID: "erasure", Type: kind, Page: first.Page, Data: domain.Data{Erasure: erasure},
		}, At: time.UnixMilli(1790000000000).UTC()}
		if at > 0 {
			record.Seq, record.At = events[at-1].Seq, events[at-1].At
		}
		record.Seq++
		var live, rebuilt []streams.Stored
		for i, e := range append(slices.Clone(events[:at]), append([]streams.Stored{record}, events[at:]...)...) {
			if i > at {
				e.Seq++
			}
			live = append(live, e)
			if tombstone, ok := deleted[e.Seq]; ok && i < at {
				e = projections.OfTombstone(e.Page, tombstone)
			}
			rebuilt = append(rebuilt, e)
		}
		require.Equal(t, s.digest(t, live), s.digest(t, rebuilt), "a rebuild without %d erased events", len(deleted))
	})
}

// adminOf returns the person whom an event names as the one who granted a page's token.
func adminOf(e streams.Stored) string {
	if c := e.Data.Connection; c != nil {
		return c.Admin
	}
	return ""
}

func (s *suite) rollback(t *testing.T, events []streams.Stored) {
	t.Helper()
	want := s.digest(t, events)
	rapid.Check(t, func(t *rapid.T) {
		first := rapid.IntRange(0, len(events)).Draw(t, "committed")
		applied := rapid.IntRange(first, len(events)).Draw(t, "applied")
		panics := rapid.Bool().Draw(t, "panics")
		reopen := rapid.Bool().Draw(t, "reopen")
		s.withStore(t, func(path string, st *store.Store) {
			s.fold(t, st, events[:first])
			before := digestOf(t, st)
			p := s.make()
			err := attempt(st, func(tx *store.Tx) error {
				if err := fold(tx, p, events[first:applied]); err != nil {
					return err
				}
				if panics {
					panic(errAbort)
				}
				return errAbort
			})
			require.ErrorIs(t, err, errAbort)
			if reopen {
				require.NoError(t, st.Close())
				var err error
				st, err = open(path)
				require.NoError(t, err)
				defer closeStore(t, st)
			}
			require.Equal(t, before, digestOf(t, st), "after an aborted transaction")
			// with the same instance
			require.NoError(t, Fold(st, p, events), "apply the rest")
			require.Equal(t, want, digestOf(t, st), "after an aborted transaction and the rest of the events")
		})
	})
}

// attempt calls Update and returns a panic as an error.
func attempt(st *store.Store, f func(*store.Tx) error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			if e, ok := v.(error); ok {
				err = e
				return
			}
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	return st.Update(f)
}

func (s *suite) garbage(t *testing.T) {
	t.Helper()
	var empty []streams.Stored // an event of every type, without data
	for i, kind := range append(domain.Types(), "", "message.invented") {
		empty = append(empty, streams.Stored{Event: domain.Event{Type: kind}, Seq: uint64(i + 1)})
	}
	s.digest(t, empty)
	s.digest(t, Garbage(1, 2000))
	rapid.Check(t, func(t *rapid.T) {
		events := Garbage(rapid.Uint64().Draw(t, "seed"), rapid.IntRange(1, 80).Draw(t, "events"))
		// Valid events follow, which must still be applied.
		for _, e := range Events(3, 20) {
			e.Seq = uint64(len(events) + 1)
			events = append(events, e)
		}
		s.withStore(t, func(_ string, st *store.Store) {
			p := s.make()
			for _, e := range events {
				require.NoError(t,
					attempt(st, func(tx *store.Tx) error { return fold(tx, p, []streams.Stored{e}) }),
					"event %d, %q", e.Seq, e.Type)
			}
			require.Equal(t, s.digest(t, events), digestOf(t, st), "invalid events in many commits and in one")
		})
	})
}

// Settings of the child process that is killed.
const (
	childEnv  = "PAGESTREAM_PROJECTIONSTEST_CHILD"
	childFile = "PAGESTREAM_PROJECTIONSTEST_FILE"
	childSeed = 17
	// childEvents is more than a child applies before it is killed on most machines. A child that has
	// applied all of them waits to be killed.
	childEvents = 20_000
	childReady  = "child is applying events"
	kills       = 8
	killLimit   = 30 * time.Second
)

// child applies events in commits of random sizes until it is killed.
func child(t *testing.T, p projections.Projection) {
	t.Helper()
	st, err := store.Open(os.Getenv(childFile), store.Options{})
	require.NoError(t, err)
	_, at, err := Digest(st)
	require.NoError(t, err)
	events := Events(childSeed, childEvents)
	fmt.Println(childReady)
	rnd := rand.New(rand.NewPCG(at, 1))
	for rest := events[at:]; len(rest) > 0; {
		n := min(len(rest), 1+rnd.IntN(40))
		require.NoError(t, Fold(st, p, rest[:n]))
		rest = rest[n:]
	}
	// Wait until it is killed, or the parent ends.
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// killed repeatedly kills a child that applies events. It checks each time that the file has the state of
// exactly the events up to its position.
func (s *suite) killed(t *testing.T, test string) {
	t.Helper()
	path := filepath.Join(s.dir, "killed.db")
	events := Events(childSeed, childEvents)
	want := Open(t, filepath.Join(s.dir, "want.db"))
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 2))
	rounds := kills
	if testing.Short() {
		rounds = 2
	}
	var last uint64
	// On a busy machine a child may be killed before its first commit.
	for round := 0; round < rounds || last == 0 && round < 10*kills; round++ {
		killOnce(t, test, s.make().Name(), path, time.Duration(rnd.IntN(50_000))*time.Microsecond)
		st, err := store.Open(path, store.Options{})
		require.NoError(t, err)
		require.Empty(t, st.Recreated(), "round %d: the file was corrupt", round)
		got, seq, err := Digest(st)
		require.NoError(t, err)
		require.NoError(t, st.Close())
		require.GreaterOrEqual(t, seq, last, "round %d: the position went back", round)
		s.fold(t, want, events[last:seq])
		require.Equal(t, digestOf(t, want), got, "round %d, killed after event %d", round, seq)
		last = seq
	}
	require.NotZero(t, last, "no child ever committed")
	t.Logf("killed %d times, last at event %d", rounds, last)
}

// killOnce runs the test binary as a child and kills it some time after it has started to apply events.
func killOnce(t *testing.T, test, projection, path string, after time.Duration) {
	t.Helper()
	parts := strings.Split(test, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	//nolint:noctx // it is killed in any case
	cmd := exec.Command(os.Args[0],
		"-test.run="+strings.Join(parts, "/"), "-test.count=1", "-test.timeout="+killLimit.String())
	cmd.Env = append(os.Environ(), childEnv+"="+projection, childFile+"="+path, "GOCOVERDIR="+t.TempDir())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	defer in.Close()
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	var output []string
	for lines.Scan() && lines.Text() != childReady {
		output = append(output, lines.Text())
	}
	ready := lines.Err() == nil && lines.Text() == childReady
	if ready {
		<-time.After(after)
	}
	if err := cmd.Process.Kill(); ready {
		require.NoError(t, err)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	err = cmd.Wait()
	require.Error(t, err,
		"child %s ended by itself: %v\n%s", strconv.Itoa(cmd.Process.Pid), err, strings.Join(output, "\n"))
	require.True(t, ready,
		"child %s ended by itself: %v\n%s", strconv.Itoa(cmd.Process.Pid), err, strings.Join(output, "\n"))
}
