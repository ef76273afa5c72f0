package export

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/comments"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
)

func newFixture(t *testing.T) *projectionstest.Rig {
	t.Helper()
	r := projectionstest.NewRig(t)
	r.Models = r.Build(t, func(m *projections.Runner) projections.Index { return deliveries.Index{Runner: m} },
		deliveries.New(), pages.New(), subscriptions.New(), conversations.New(), comments.New())
	return r
}

// newIrregularStream returns a stream with all irregular contents: duplicates,
// messages that are not events, and an erased contact.
func newIrregularStream(t *testing.T) *projectionstest.Rig {
	t.Helper()
	r := newFixture(t)
	events := projectionstest.Events(3, 300)
	for i, e := range events {
		m, err := streams.Encode(e.Event)
		require.NoError(t, err)
		if i%50 == 7 { // stored twice, as after the deduplication window
			m.Header.Del(streams.HeaderMsgID)
		}
		_, err = r.JS.PublishMsg(t.Context(), m)
		require.NoError(t, err)
		if i%50 == 7 {
			_, err = r.JS.PublishMsg(t.Context(), m)
			require.NoError(t, err)
		}
	}
	for _, m := range []*nats.Msg{
		{Subject: "pagestream.odd", Data: []byte("no event <at all>\xff\n")},
		{Subject: "pagestream.1.message.received", Header: nats.Header{"ce-id": {"a", "b"}}, Data: []byte("{}")},
	} {
		_, err := r.JS.PublishMsg(t.Context(), m)
		require.NoError(t, err)
	}
	eraseOne(t, r)
	return r
}

// eraseOne erases the contact of the first event.
func eraseOne(t *testing.T, r *projectionstest.Rig) {
	t.Helper()
	var of domain.Event
	erasure := &domain.Erasure{Part: 1, Parts: 1}
	var seqs []uint64
	skip := streams.ReadOptions{Malformed: func(uint64, error) error { return nil }}
	_, err := streams.Read(t.Context(), r.JS, skip, func(e streams.Stored) error {
		if of.Contact == "" {
			of = e.Event
		}
		if e.Contact != "" && e.Contact == of.Contact && e.Page == of.Page {
			erasure.Events = append(erasure.Events, domain.NewTombstone(e.Event, e.Seq, e.At))
			seqs = append(seqs, e.Seq)
		}
		return nil
	})
	require.NoError(t, err)
	erasure.Contact = domain.ContactHash(of.Contact)
	r.Publish(t, domain.Event{
		ID: "gone", Type: domain.ContactErased, Page: of.Page, Data: domain.Data{Erasure: erasure},
	})
	n, err := streams.Erase(t.Context(), r.JS, streams.Name, seqs, func(streams.Stored) bool { return true })
	require.NoError(t, err)
	require.Positive(t, n)
}

func digests(t *testing.T, r *projectionstest.Rig) (out []string) {
	t.Helper()
	r.Settle(t, r.Models)
	for _, m := range r.Models {
		d, meta, err := m.Digest()
		require.NoError(t, err)
		out = append(out, fmt.Sprint(m.Name(), " ", d, " ", meta.Seq, meta.Dropped, meta.Malformed))
	}
	return out
}

// toFile exports to a file, and resumes after its last complete line.
func toFile(t *testing.T, o Options, path string) (out Exported, err error) {
	err = ToFile(path, func(w io.Writer, last uint64) (err error) {
		o.From = max(o.From, last+1)
		out, err = Write(t.Context(), o, w)
		out.Last = max(out.Last, last)
		return err
	})
	return out, err
}

// TestRoundTrip checks that an export which is imported into another installation
// results in the same read models, and in the same export.
func TestRoundTrip(t *testing.T) {
	a := newIrregularStream(t)
	path := filepath.Join(t.TempDir(), "events.ndjson")
	out, err := toFile(t, Options{JS: a.JS, Stream: streams.Name}, path)
	require.NoError(t, err)
	b := projectionstest.NewRig(t)
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	in, err := Read(t.Context(), ImportOptions{JS: b.JS, Stream: streams.Name}, f)
	require.NoError(t, err)
	assert.Equal(t, out.Events, in.Events)
	assert.Equal(t, out.Last, in.Last)
	assert.Positive(t, in.Gaps, "the erased events")
	b.Models = b.Build(t, func(m *projections.Runner) projections.Index { return deliveries.Index{Runner: m} },
		deliveries.New(), pages.New(), subscriptions.New(), conversations.New(), comments.New())
	assert.Equal(t, digests(t, a), digests(t, b))

	again := filepath.Join(t.TempDir(), "again.ndjson")
	_, err = toFile(t, Options{JS: b.JS, Stream: streams.Name}, again)
	require.NoError(t, err)
	was, err := os.ReadFile(path)
	require.NoError(t, err)
	is, err := os.ReadFile(again)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(was, is), "the second export differs")

	// Importing the same file again changes nothing; another file is refused.
	to := ImportOptions{JS: b.JS, Stream: streams.Name}
	_, err = Read(t.Context(), to, bytes.NewReader(was))
	require.NoError(t, err)
	_, err = Read(t.Context(), to, bytes.NewReader(bytes.SplitAfter(was, []byte("\n"))[0]))
	require.ErrorIs(t, err, ErrNotEmpty)
}

// TestResume checks that an interrupted export or import resumes where it ended.
func TestResume(t *testing.T) {
	a := newIrregularStream(t)
	dir := t.TempDir()
	whole, part := filepath.Join(dir, "whole"), filepath.Join(dir, "part")
	out, err := toFile(t, Options{JS: a.JS, Stream: streams.Name}, whole)
	require.NoError(t, err)
	want, err := os.ReadFile(whole)
	require.NoError(t, err)
	for _, cut := range []int{0, 1, len(want) / 3, len(want) - 1, len(want)} {
		require.NoError(t, os.WriteFile(part, want[:cut], 0o600))
		got, err := toFile(t, Options{JS: a.JS, Stream: streams.Name}, part)
		require.NoError(t, err)
		assert.Equal(t, out.Last, got.Last)
		is, err := os.ReadFile(part)
		require.NoError(t, err)
		assert.True(t, bytes.Equal(want, is), "cut at %d", cut)
	}
	b := newFixture(t)
	_, err = Read(t.Context(), ImportOptions{JS: b.JS, Stream: streams.Name}, bytes.NewReader(want[:len(want)/2]))
	require.ErrorIs(t, err, ErrCutOff)
	in, err := Read(t.Context(), ImportOptions{JS: b.JS, Stream: streams.Name}, bytes.NewReader(want))
	require.NoError(t, err)
	assert.Equal(t, out.Last, in.Last)
}

func TestFilters(t *testing.T) {
	r := projectionstest.NewRig(t)
	for i, e := range []domain.Event{
		{Page: "100", Type: domain.MessageReceived},
		{Page: "200", Type: domain.MessageReceived},
		{Page: "100", Type: domain.MessageRead},
	} {
		e.ID = fmt.Sprint("e", i)
		r.Publish(t, e)
	}
	for _, c := range []struct {
		o    Options
		want uint64
	}{
		{Options{}, 3},
		{Options{Pages: []domain.PageID{"100"}}, 2},
		{Options{Types: []domain.Type{domain.MessageReceived}}, 2},
		{Options{Pages: []domain.PageID{"100", "200"}, Types: []domain.Type{domain.MessageRead}}, 1},
		{Options{From: 3}, 1},
		{Options{To: 1}, 1},
		{Options{From: 4}, 0},
	} {
		c.o.JS, c.o.Stream = r.JS, streams.Name
		var b bytes.Buffer
		out, err := Write(t.Context(), c.o, &b)
		require.NoError(t, err)
		assert.Equal(t, c.want, out.Events, "%+v", c.o)
		assert.EqualValues(t, c.want, strings.Count(b.String(), "\n"))
	}
}

const exampleLine = `{"specversion":"1.0","id":"e1","type":"pagestream.message.received.v1","source":"/pages/100",` +
	`"sequence":"1","storedat":"2026-11-23T10:00:00Z","data":{}}`

// TestImportRefusesBadLines checks that an import stops at a bad line, and that the
// error contains the line's number but no text of it.
func TestImportRefusesBadLines(t *testing.T) {
	good := exampleLine + "\n"
	for name, c := range map[string]struct {
		in   string
		want error
	}{
		"no JSON":     {good + "secret\n", ErrLine},
		"no sequence": {good + `{"id":"secret"}` + "\n", ErrLine},
		"no type":     {good + `{"id":"secret","sequence":"2"}` + "\n", ErrLine},
		"other page":  {good + strings.ReplaceAll(good, "/pages/", "/secret/"), ErrOrder},
		"backwards":   {good + good, ErrOrder},
		"cut off":     {good + good[:20], ErrCutOff},
		"raw":         {good + `{"type":"pagestream.raw","sequence":"2","data":"secret"}` + "\n", ErrLine},
	} {
		r := projectionstest.NewRig(t)
		_, err := Read(t.Context(), ImportOptions{JS: r.JS, Stream: streams.Name}, strings.NewReader(c.in))
		require.ErrorIs(t, err, c.want, name)
		assert.Contains(t, err.Error(), "line 2")
		assert.NotContains(t, err.Error(), "secret", name)
	}
}

func FuzzLine(f *testing.F) {
	f.Add([]byte(exampleLine))
	f.Add([]byte(`{"type":"pagestream.raw","sequence":"2","storedat":"2026-11-23T10:00:00Z",` +
		`"data":{"subject":"pagestream.x","data":"AA=="}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, seq, err := decode(b)
		if err != nil {
			require.ErrorIs(t, err, ErrLine)
			return
		}
		m, err := l.message()
		if err != nil {
			return
		}
		again, err := encode(streams.Raw{
			Seq: seq, At: time.Unix(0, 0).UTC(), Subject: m.Subject, Header: m.Header, Data: m.Data,
		})
		if err != nil {
			return // the line was not written by an export: its data is not JSON
		}
		back, same, err := decode(again)
		require.NoError(t, err)
		require.Equal(t, seq, same)
		other, err := back.message()
		require.NoError(t, err)
		require.Equal(t, m.Subject, other.Subject)
		require.Equal(t, string(m.Data), string(other.Data))
	})
}
