package export

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// Errors of an import.
var (
	// ErrNotEmpty is returned when the stream contains other events than those that
	// the file begins with.
	ErrNotEmpty = errors.New("the stream contains other events; import into a new installation")
	// ErrOrder is returned when the sequences in the file do not increase.
	ErrOrder = errors.New("the sequences do not increase")
	// ErrCutOff is returned when the file ends in the middle of a line.
	ErrCutOff = errors.New("the file ends within a line; export to it again, which resumes where it ends")
	// ErrStored is returned when an event was stored at another sequence than its
	// own, because another process writes to the stream.
	ErrStored = errors.New("an event was stored at a wrong sequence; does another process write to the stream?")
)

const (
	// inFlight bounds the messages that are not acknowledged yet.
	inFlight   = 512
	ackTimeout = 30 * time.Second
)

// fillerType is the type of the placeholders that are stored at missing sequences
// during an import.
const fillerType = domain.Type("import.filler")

// ImportOptions configure [Read]. JS, Stream and Secret are required.
type ImportOptions struct {
	JS     jetstream.JetStream
	Stream string
	// Secret stores the sealed tokens of a page's event and returns their reference. It
	// must return the same reference for the same tokens.
	Secret func(ctx context.Context, page domain.PageID, t Tokens) (ref string, err error)
	// Progress, if not nil, is called with the sequence of every 1,024th event.
	Progress func(seq uint64)
}

// Imported is the result of [Read].
type Imported struct {
	Events uint64 `json:"events"`
	// Last is the last sequence. Gaps is how many sequences before it have no event.
	Last uint64 `json:"last"`
	Gaps uint64 `json:"gaps"`
}

// Read stores the events of a file in an empty stream, each at its own sequence and
// with its own time. Sealed tokens in the events of an earlier version are stored as
// secrets, and the events get their references. No other process may write to or read from the stream before
// it returns: until then there are placeholders in the gaps. An interrupted import
// may be repeated with the same file, and resumes. It fails with [ErrLine],
// [ErrOrder], [ErrCutOff], [ErrNotEmpty] or [ErrStored].
func Read(ctx context.Context, o ImportOptions, r io.Reader) (out Imported, err error) {
	im := &importer{o: o}
	defer func() {
		if err != nil { // wait for what is in flight, so that a repeated import finds it
			err = errors.Join(err, im.awaitAcks(ctx, 0))
		}
	}()
	if err := im.open(ctx); err != nil {
		return out, err
	}
	in := bufio.NewReaderSize(r, 1<<20)
	for n := 1; ; n++ {
		b, err := readLine(in)
		if errors.Is(err, io.EOF) {
			if len(b) > 0 {
				return im.out, fmt.Errorf("line %d: %w", n, ErrCutOff)
			}
			break
		}
		if err == nil {
			err = im.importLine(ctx, b)
		}
		if err != nil {
			return im.out, fmt.Errorf("line %d: %w", n, err)
		}
	}
	if err := im.awaitAcks(ctx, 0); err != nil {
		return im.out, err
	}
	if im.out.Last < im.have {
		return im.out, ErrNotEmpty // the stream goes further than the file
	}
	return im.out, im.purgeFillers(ctx)
}

type importer struct {
	o      ImportOptions
	stream jetstream.Stream
	have   uint64 // the stream's last sequence at the start
	out    Imported
	// pending are the acknowledgements that have not arrived yet, in order.
	pending []pendingAck
	// recent and older are the ids that JetStream may remember for deduplication.
	// Once per window, older is dropped and recent becomes older.
	recent, older map[string]struct{}
	rotated       time.Time
	window        time.Duration
	// tokens are the last ones of each page.
	tokens map[domain.PageID]Tokens
}

type pendingAck struct {
	seq uint64
	ack jetstream.PubAckFuture
}

// open reads the state of the stream.
func (im *importer) open(ctx context.Context) (err error) {
	if im.stream, err = im.o.JS.Stream(ctx, im.o.Stream); err != nil {
		return fmt.Errorf("read stream info: %w", err)
	}
	info := im.stream.CachedInfo()
	im.have, im.window, im.rotated = info.State.LastSeq, info.Config.Duplicates, time.Now()
	im.recent, im.older = map[string]struct{}{}, map[string]struct{}{}
	im.tokens = map[domain.PageID]Tokens{}
	return nil
}

// importLine stores the message of one line, after placeholders for the sequences
// that are missing before it.
func (im *importer) importLine(ctx context.Context, b []byte) error {
	l, seq, err := decode(b)
	if err != nil {
		return err
	}
	if seq <= im.out.Last {
		return ErrOrder
	}
	m, err := l.message()
	if err != nil {
		return err
	}
	if m.Header == nil {
		m.Header = nats.Header{}
	}
	if err := im.moveTokens(ctx, m); err != nil {
		return err
	}
	if m.Header.Get(streams.HeaderStoredAt) == "" {
		m.Header.Set(streams.HeaderStoredAt, l.StoredAt.UTC().Format(time.RFC3339Nano))
	}
	gap := seq - im.out.Last - 1
	for at := im.out.Last + 1; at < seq; at++ {
		if at <= im.have {
			continue
		}
		filler := &nats.Msg{Subject: streams.Subject(domain.NoPage, fillerType), Header: nats.Header{}}
		if err := im.publish(ctx, at, filler); err != nil {
			return err
		}
	}
	if seq <= im.have {
		im.dedupID(m.Header.Get(streams.HeaderMsgID), seq) // JetStream may remember it from the earlier try
		if err := im.compare(ctx, seq, m); err != nil {
			return err
		}
	} else if err := im.publish(ctx, seq, m); err != nil {
		return err
	}
	im.out = Imported{Events: im.out.Events + 1, Last: seq, Gaps: im.out.Gaps + gap}
	if im.o.Progress != nil && im.out.Events%1024 == 0 {
		im.o.Progress(seq)
	}
	return nil
}

// compare checks that the stream already contains the line's event. It checks only
// the first event, the stream's last one, and one in a thousand between.
func (im *importer) compare(ctx context.Context, seq uint64, m *nats.Msg) error {
	if im.out.Events > 0 && seq != im.have && seq%1000 != 0 {
		return nil
	}
	have, err := im.stream.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return ErrNotEmpty
	}
	if err != nil {
		return fmt.Errorf("get sequence %d: %w", seq, err)
	}
	if have.Subject != m.Subject || have.Header.Get(streams.HeaderID) != m.Header.Get(streams.HeaderID) ||
		have.Header.Get(streams.HeaderStoredAt) != m.Header.Get(streams.HeaderStoredAt) {
		return ErrNotEmpty
	}
	return nil
}

// publish stores a message that must get the sequence seq.
func (im *importer) publish(ctx context.Context, seq uint64, m *nats.Msg) error {
	m.Header.Set(streams.HeaderMsgID, im.dedupID(m.Header.Get(streams.HeaderMsgID), seq))
	ack, err := im.o.JS.PublishMsgAsync(m)
	if err != nil {
		return fmt.Errorf("store event %d: %w", seq, err)
	}
	im.pending = append(im.pending, pendingAck{seq, ack})
	return im.awaitAcks(ctx, inFlight)
}

// dedupID returns the Nats-Msg-Id of an event: its own id, or a unique one if
// JetStream would drop the event as a duplicate. The file may contain an id twice,
// as the exported stream did.
func (im *importer) dedupID(id string, seq uint64) string {
	if time.Since(im.rotated) > im.window {
		im.older, im.recent, im.rotated = im.recent, map[string]struct{}{}, time.Now()
	}
	_, recent := im.recent[id]
	_, older := im.older[id]
	if id == "" || recent || older {
		id += "#" + strconv.FormatUint(seq, 10)
	}
	im.recent[id] = struct{}{}
	return id
}

// awaitAcks waits until at most limit acknowledgements are missing.
func (im *importer) awaitAcks(ctx context.Context, limit int) error {
	for len(im.pending) > limit {
		d := im.pending[0]
		im.pending = im.pending[1:]
		select {
		case ack := <-d.ack.Ok():
			if ack.Sequence != d.seq || ack.Duplicate {
				return fmt.Errorf("event %d was stored as %d: %w", d.seq, ack.Sequence, ErrStored)
			}
		case err := <-d.ack.Err():
			return fmt.Errorf("store event %d: %w", d.seq, err)
		case <-time.After(ackTimeout):
			return fmt.Errorf("store event %d: no acknowledgement in %s", d.seq, ackTimeout)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// purgeFillers deletes the placeholders.
func (im *importer) purgeFillers(ctx context.Context) error {
	subject := streams.Subject(domain.NoPage, fillerType)
	if err := im.stream.Purge(ctx, jetstream.WithPurgeSubject(subject)); err != nil {
		return fmt.Errorf("purge fillers: %w", err)
	}
	return nil
}
