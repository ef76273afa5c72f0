package export

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/streams"
)

// rawText returns a line with a message that is not an event.
func rawText(seq uint64, subject string, h nats.Header) string {
	data, err := json.Marshal(rawMessage{Subject: subject, Header: h, Data: []byte("{}")})
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf(`{"type":%q,"sequence":"%d","storedat":"2026-11-23T10:00:00Z","data":%s}`+"\n", rawType, seq, data)
}

// content returns everything that is in a server: its streams, and their messages.
func content(t *testing.T, js jetstream.JetStream) (out []string) {
	t.Helper()
	list := js.ListStreams(t.Context())
	for info := range list.Info() {
		out = append(out, fmt.Sprint(info.Config.Name, info.Config.Subjects, info.State.Msgs, info.State.LastSeq))
	}
	require.NoError(t, list.Err())
	for _, m := range stored(t, js) {
		out = append(out, fmt.Sprint(m.Seq, m.Subject, m.Header, string(m.Data)))
	}
	return out
}

// TestBadFileChangesNothing checks that a file with a bad line, wherever it is, leaves the server as
// it was: no event of it is stored, and no line is a request to NATS.
func TestBadFileChangesNothing(t *testing.T) {
	good := exampleLine + "\n"
	second := strings.NewReplacer(`"1"`, `"2"`, `"e1"`, `"e2"`).Replace(good)
	at := func(seq string) string {
		return strings.NewReplacer(`"1"`, `"`+seq+`"`, `"e1"`, `"e`+seq+`"`).Replace(good)
	}
	connected := func(name, token string) string { // of an earlier version
		return `{"specversion":"1.0","id":"e3","type":"pagestream.page.connected.v1","source":"/pages/700",` +
			`"time":"2026-09-01T10:00:00Z","datacontenttype":"application/json","sequence":"3",` +
			`"storedat":"2026-09-01T10:00:00.5Z","data":{"page":"700","app":"main","connection":{"connection_id":"c",` +
			`"name":"` + name + `","sealed_token":"` + token + `"}}}` + "\n"
	}
	for name, c := range map[string]struct {
		line string
		want error
	}{
		"long sealed tokens":   {connected("P", strings.Repeat("<", 65<<10)), ErrLine},
		"longer when encoded":  {connected(strings.Repeat("\xff", 12<<20), "sealed"), ErrLine},
		"deletes the stream":   {rawText(3, "$JS.API.STREAM.DELETE.PAGESTREAM", nil), ErrLine},
		"creates a stream":     {rawText(3, "$JS.API.STREAM.CREATE.OTHER", nil), ErrLine},
		"a secret":             {rawText(3, "$KV.PAGESTREAM_SECRETS.7005", nil), ErrLine},
		"a parked event":       {rawText(3, "pagestream-parked.PAGESTREAM.x", nil), ErrLine},
		"only the prefix":      {rawText(3, "pagestream", nil), ErrLine},
		"a wildcard":           {rawText(3, "pagestream.*.message.received", nil), ErrLine},
		"all subjects":         {rawText(3, "pagestream.>", nil), ErrLine},
		"an empty token":       {rawText(3, "pagestream..message.received", nil), ErrLine},
		"a space":              {rawText(3, "pagestream.a b", nil), ErrLine},
		"a line break":         {rawText(3, "pagestream.a\r\nPUB x 0\r\n", nil), ErrLine},
		"a placeholder":        {rawText(3, streams.Subject(domain.NoPage, fillerType), nil), ErrLine},
		"a rollup":             {rawText(3, "pagestream.odd", nats.Header{"Nats-Rollup": {"all"}}), ErrLine},
		"a rollup in capitals": {rawText(3, "pagestream.odd", nats.Header{"NATS-ROLLUP": {"all"}}), ErrLine},
		"a time to live":       {rawText(3, "pagestream.odd", nats.Header{"Nats-TTL": {"1s"}}), ErrLine},
		"a trace":              {rawText(3, "pagestream.odd", nats.Header{"Nats-Trace-Dest": {"x"}}), ErrLine},
		"an injected header":   {rawText(3, "pagestream.odd", nats.Header{"ce-id": {"x\r\nNats-Rollup: all"}}), ErrLine},
		"long headers":         {rawText(3, "pagestream.odd", nats.Header{"ce-id": {strings.Repeat("x", 64<<10)}}), ErrLine},
		"a huge sequence":      {at("1000000000000000000"), ErrGaps},
		"the largest sequence": {at("18446744073709551615"), ErrGaps},
		"too many gaps":        {at("10000004"), ErrGaps},
		"backwards":            {good, ErrOrder},
		"no JSON":              {"nothing\n", ErrLine},
		"cut off":              {good[:40], ErrCutOff},
	} {
		r := projectionstest.NewRig(t)
		before := content(t, r.JS)
		opened := false
		_, err := Read(t.Context(), ImportOptions{
			JS: r.JS, Stream: streams.Name, Open: func(context.Context) error { opened = true; return nil },
		}, strings.NewReader(good+second+c.line))
		require.ErrorIs(t, err, c.want, name)
		assert.Contains(t, err.Error(), "line 3", name)
		assert.Equal(t, before, content(t, r.JS), name)
		assert.False(t, opened, name)
	}
}

// TestGapsAreBounded checks that the bound is for all gaps together, and can be raised.
func TestGapsAreBounded(t *testing.T) {
	var file strings.Builder
	for _, seq := range []string{"3", "6", "9"} { // two missing before each
		file.WriteString(strings.NewReplacer(`"1"`, `"`+seq+`"`, `"e1"`, `"e`+seq+`"`).Replace(exampleLine) + "\n")
	}
	r := projectionstest.NewRig(t)
	to := ImportOptions{JS: r.JS, Stream: streams.Name, MaxGaps: 5}
	_, err := Read(t.Context(), to, strings.NewReader(file.String()))
	require.ErrorIs(t, err, ErrGaps)
	assert.Contains(t, err.Error(), "line 3")
	assert.Empty(t, stored(t, r.JS))
	to.MaxGaps = 6
	out, err := Read(t.Context(), to, strings.NewReader(file.String()))
	require.NoError(t, err)
	assert.Equal(t, Imported{Events: 3, Last: 9, Gaps: 6}, out)
}

// TestOtherHeadersAreNotImported checks that a header which is neither CloudEvents' nor ours is left
// out, and counted; the event is stored.
func TestOtherHeadersAreNotImported(t *testing.T) {
	a, b := projectionstest.NewRig(t), projectionstest.NewRig(t)
	_, err := a.JS.PublishMsg(t.Context(), foreign("f1", `{"object":"page","raw":{}}`, "Other", "x", "Status", "503"))
	require.NoError(t, err)
	var out bytes.Buffer
	_, err = Write(t.Context(), Options{JS: a.JS, Stream: streams.Name}, &out)
	require.NoError(t, err)
	in, err := Read(t.Context(), ImportOptions{JS: b.JS, Stream: streams.Name}, bytes.NewReader(out.Bytes()))
	require.NoError(t, err)
	assert.Equal(t, Imported{Events: 1, Last: 1, DroppedHeaders: 2}, in)
	want := stored(t, a.JS)
	delete(want[0].Header, "Other")
	delete(want[0].Header, "Status")
	assert.Equal(t, want, stored(t, b.JS))
}

// errInterrupted interrupts an import.
var errInterrupted = errors.New("interrupted")

// interrupted fails after some bytes of the second reading.
type interrupted struct {
	io.ReadSeeker
	left int
	read int // which reading it is
}

func (r *interrupted) Seek(offset int64, whence int) (int64, error) {
	r.read++
	return r.ReadSeeker.Seek(offset, whence)
}

func (r *interrupted) Read(b []byte) (int, error) {
	if r.read < 2 { // the first Seek finds where the file begins
		return r.ReadSeeker.Read(b)
	}
	if r.left <= 0 {
		return 0, errInterrupted
	}
	n, err := r.ReadSeeker.Read(b[:min(len(b), r.left)])
	r.left -= n
	return n, err
}

// TestInterruptedImportResumes checks that an import which ended in the middle is continued with the
// same file, wherever it ended, and is refused with another file, which then changes nothing.
func TestInterruptedImportResumes(t *testing.T) {
	a := newIrregularStream(t)
	var out bytes.Buffer
	exported, err := Write(t.Context(), Options{JS: a.JS, Stream: streams.Name}, &out)
	require.NoError(t, err)
	file := out.Bytes()
	b := newFixture(t)
	to := ImportOptions{JS: b.JS, Stream: streams.Name}
	for _, part := range []int{len(file) / 4, len(file) / 2, len(file) - 1} {
		_, err := Read(t.Context(), to, &interrupted{ReadSeeker: bytes.NewReader(file), left: part})
		require.ErrorIs(t, err, errInterrupted)
		before := content(t, b.JS)
		assert.Greater(t, len(before), part/2000, "a part is stored")
		lines := bytes.SplitAfter(file, []byte("\n"))
		for name, other := range map[string][]byte{
			"without the first line": bytes.Join(lines[1:], nil),
			"the first line only":    lines[0],
			"with other ids":         bytes.ReplaceAll(file, []byte(`"id":"`), []byte(`"id":"x`)),
			"later events":           bytes.ReplaceAll(lines[0], []byte(`"sequence":"1"`), []byte(`"sequence":"99999"`)),
		} {
			_, err := Read(t.Context(), to, bytes.NewReader(other))
			require.ErrorIs(t, err, ErrNotEmpty, name)
		}
		assert.Equal(t, before, content(t, b.JS), "other files change nothing")
	}
	in, err := Read(t.Context(), to, bytes.NewReader(file))
	require.NoError(t, err)
	assert.Equal(t, exported.Last, in.Last)
	var again bytes.Buffer
	_, err = Write(t.Context(), Options{JS: b.JS, Stream: streams.Name}, &again)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(file, again.Bytes()), "the second export differs")
}

// FuzzImport checks every file: no message that an import would store has a subject outside of the
// stream, an instruction for NATS, or a sequence that does not increase, and gaps are bounded.
func FuzzImport(f *testing.F) {
	f.Add([]byte(exampleLine + "\n"))
	f.Add([]byte(rawText(2, "pagestream.odd", nats.Header{"Nats-Msg-Id": {"a"}, "Other": {"x"}})))
	f.Add([]byte(rawText(1, "$JS.API.STREAM.DELETE.PAGESTREAM", nil)))
	f.Add([]byte(exampleLine + "\n" + rawText(18446744073709551615, "pagestream.odd", nil)))
	f.Add([]byte(rawText(1, "pagestream.odd", nats.Header{"NATS-Rollup": {"all"}, "ce-id": {"a\r\nb"}})))
	conn := projectionstest.NewRig(f).JS
	f.Fuzz(func(t *testing.T, file []byte) {
		im := &importer{o: ImportOptions{JS: conn, Stream: streams.Name, MaxGaps: 1000}}
		var last, gaps uint64
		out, err := im.scan(context.Background(), bytes.NewReader(file),
			func(_ context.Context, at Imported, gap uint64, m *nats.Msg) error {
				require.Greater(t, at.Last, last)
				require.Equal(t, at.Last-last-1, gap)
				last, gaps = at.Last, gaps+gap
				require.LessOrEqual(t, gaps, uint64(1000))
				require.True(t, strings.HasPrefix(m.Subject, "pagestream."), m.Subject)
				require.False(t, strings.ContainsAny(m.Subject, " *>\t\r\n\x00"), m.Subject)
				for name, values := range m.Header {
					require.False(t, strings.HasPrefix(strings.ToLower(name), "nats-") && name != streams.HeaderMsgID, name)
					require.NotEqual(t, "Status", name)
					require.False(t, strings.ContainsAny(name+strings.Join(values, ""), "\r\n\x00"), name)
				}
				require.NotEmpty(t, m.Header.Get(streams.HeaderStoredAt))
				return nil
			})
		require.Equal(t, last, out.Last)
		if err != nil {
			require.Contains(t, err.Error(), "line ")
		}
	})
}
