package export

import (
	"bufio"
	"cmp"
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
	// ErrGaps is returned when more sequences are missing in the file than the options
	// permit.
	ErrGaps = errors.New("too many sequences are missing in the file")
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

// DefaultMaxGaps is how many sequences of a file may be missing by default. Each is filled
// by a placeholder during an import.
const DefaultMaxGaps = 10_000_000

// ImportOptions configure [Read]. JS, Stream and Secret are required.
type ImportOptions struct {
	JS     jetstream.JetStream
	Stream string
	// Open, if not nil, is called after the whole file has been checked, and creates the
	// stream if it does not exist.
	Open func(context.Context) error
	// Secret stores the sealed tokens of a page's event and returns their reference. It
	// must return the same reference for the same tokens.
	Secret func(ctx context.Context, page domain.PageID, t Tokens) (ref string, err error)
	// MaxGaps is how many sequences may be missing in the file; 0 means [DefaultMaxGaps].
	MaxGaps uint64
	// Progress, if not nil, is called with the sequence of every 1,024th event that is
	// stored.
	Progress func(seq uint64)
}

// Imported is the result of [Read].
type Imported struct {
	Events uint64 `json:"events"`
	// Last is the last sequence. Gaps is how many sequences before it have no event.
	Last uint64 `json:"last"`
	Gaps uint64 `json:"gaps"`
	// DroppedHeaders counts the headers that are not of pagestream or CloudEvents and
	// were not stored.
	DroppedHeaders uint64 `json:"dropped_headers,omitempty"`
}

// Read stores the events of a file in an empty stream, each at its own sequence and
// with its own time. Sealed tokens in the events of an earlier version are stored as
// secrets, and the events get their references. No other process may write to or read
// from the stream before it returns: until then there are placeholders in the gaps.
//
// It reads the file twice: nothing is stored unless every line can be. An import that
// was interrupted after that may be repeated with the same file, and resumes. It fails
// with [ErrLine], [ErrOrder], [ErrGaps], [ErrCutOff], [ErrNotEmpty] or [ErrStored].
func Read(ctx context.Context, o ImportOptions, r io.ReadSeeker) (out Imported, err error) {
	o.MaxGaps = cmp.Or(o.MaxGaps, DefaultMaxGaps)
	im := &importer{o: o}
	start, err := r.Seek(0, io.SeekCurrent)
	if err != nil {
		return out, fmt.Errorf("read the file twice: %w", err)
	}
	if err := im.check(ctx, r); err != nil {
		return out, err
	}
	if _, err := r.Seek(start, io.SeekStart); err != nil {
		return out, fmt.Errorf("read the file twice: %w", err)
	}
	if o.Open != nil {
		if err := o.Open(ctx); err != nil {
			return out, err
		}
	}
	defer func() {
		if err != nil { // wait for what is in flight, so that a repeated import finds it
			err = errors.Join(err, im.awaitAcks(ctx, 0))
		}
	}()
	if err := im.open(ctx); err != nil {
		return out, err
	}
	if out, err = im.scan(ctx, r, im.store); err != nil {
		return out, err
	}
	if err := im.awaitAcks(ctx, 0); err != nil {
		return out, err
	}
	if err := im.purgeFillers(ctx); err != nil || out.Gaps == 0 {
		return out, err
	}
	// What the file does not have is not lost by this stream.
	lost, err := streams.Lost(ctx, o.JS, o.Stream)
	if err != nil {
		return out, err
	}
	return out, streams.AcceptLoss(ctx, o.JS, o.Stream, "import", lost)
}

type importer struct {
	o      ImportOptions
	stream jetstream.Stream
	have   uint64 // the stream's last sequence at the start
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
	im.tokens = map[domain.PageID]Tokens{}
	if im.stream, err = im.o.JS.Stream(ctx, im.o.Stream); err != nil {
		return fmt.Errorf("read stream info: %w", err)
	}
	info := im.stream.CachedInfo()
	im.have, im.window, im.rotated = info.State.LastSeq, info.Config.Duplicates, time.Now()
	im.recent, im.older = map[string]struct{}{}, map[string]struct{}{}
	return nil
}

// use is called with the message of a line, the sums up to this line, and how many
// sequences are missing directly before it.
type use func(ctx context.Context, at Imported, gap uint64, m *nats.Msg) error

// scan calls f for each line. It fails at the first line that can't be stored; its errors
// have the line's number. It returns the sums of the lines before.
func (im *importer) scan(ctx context.Context, r io.Reader, f use) (out Imported, err error) {
	in := bufio.NewReaderSize(r, 1<<20)
	for n := 1; ; n++ {
		b, err := readLine(in)
		if errors.Is(err, io.EOF) {
			if len(b) > 0 {
				return out, fmt.Errorf("line %d: %w", n, ErrCutOff)
			}
			return out, nil
		}
		if err == nil {
			out, err = im.scanLine(ctx, b, out, f)
		}
		if err == nil && n%1024 == 0 {
			err = ctx.Err()
		}
		if err != nil {
			return out, fmt.Errorf("line %d: %w", n, err)
		}
	}
}

// scanLine calls f for one line. It returns the sums with the line, or without it after an
// error.
func (im *importer) scanLine(ctx context.Context, b []byte, before Imported, f use) (Imported, error) {
	l, seq, err := decode(b)
	if err != nil {
		return before, err
	}
	if seq <= before.Last {
		return before, ErrOrder
	}
	gap := seq - before.Last - 1
	if gap > im.o.MaxGaps-before.Gaps {
		return before, fmt.Errorf("%w: more than %d", ErrGaps, im.o.MaxGaps)
	}
	m, dropped, err := im.message(l)
	if err != nil {
		return before, err
	}
	at := Imported{before.Events + 1, seq, before.Gaps + gap, before.DroppedHeaders + dropped}
	if err := f(ctx, at, gap, m); err != nil {
		return before, err
	}
	return at, nil
}

// message returns the message that is stored for a line, and how many headers it dropped.
func (im *importer) message(l line) (m *nats.Msg, dropped uint64, err error) {
	if m, err = l.message(); err != nil {
		return nil, 0, err
	}
	if m.Header == nil {
		m.Header = nats.Header{}
	}
	if dropped, err = restrict(m); err != nil {
		return nil, 0, err
	}
	if m.Header.Get(streams.HeaderStoredAt) == "" {
		m.Header.Set(streams.HeaderStoredAt, l.StoredAt.UTC().Format(time.RFC3339Nano))
	}
	return m, dropped, im.fits(m)
}

// fits fails with [ErrLine] if the server does not accept a message because of its size.
func (im *importer) fits(m *nats.Msg) error {
	if limit := im.o.JS.Conn().MaxPayload(); limit > 0 && int64(m.Size()) > limit {
		return fmt.Errorf("%w: it has %d bytes, the server accepts %d", ErrLine, m.Size(), limit)
	}
	return nil
}

// check reads a whole file and compares its beginning with what the stream contains. It
// stores nothing.
func (im *importer) check(ctx context.Context, r io.Reader) error {
	err := im.open(ctx)
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	}
	stored := uint64(0)
	out, err := im.scan(ctx, r, func(ctx context.Context, at Imported, _ uint64, m *nats.Msg) error {
		if err := im.moveTokens(ctx, m, unstored); err != nil || at.Last > im.have {
			return err
		}
		stored++
		return im.compare(ctx, at, m)
	})
	if err != nil || im.have == 0 {
		return err
	}
	// The stream may contain the file's first events and the placeholders between them.
	subject := streams.Subject(domain.NoPage, fillerType)
	info, err := im.stream.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err != nil {
		return fmt.Errorf("read stream info: %w", err)
	}
	if out.Last < im.have || info.State.Msgs-info.State.Subjects[subject] != stored {
		return ErrNotEmpty
	}
	return nil
}

// store stores the message of one line, after placeholders for the sequences that are
// missing before it.
func (im *importer) store(ctx context.Context, at Imported, gap uint64, m *nats.Msg) error {
	if err := im.moveTokens(ctx, m, im.o.Secret); err != nil {
		return err
	}
	for missing := max(at.Last-gap, im.have+1); missing < at.Last; missing++ {
		filler := &nats.Msg{Subject: streams.Subject(domain.NoPage, fillerType), Header: nats.Header{}}
		if err := im.publish(ctx, missing, filler); err != nil {
			return err
		}
	}
	if at.Last <= im.have {
		im.dedupID(m.Header.Get(streams.HeaderMsgID), at.Last) // JetStream may remember it from the earlier try
	} else if err := im.publish(ctx, at.Last, m); err != nil {
		return err
	}
	if im.o.Progress != nil && at.Events%1024 == 0 {
		im.o.Progress(at.Last)
	}
	return nil
}

// compare checks that the stream already contains the line's event. It checks only
// the first event, the stream's last one, and one in a thousand between.
func (im *importer) compare(ctx context.Context, at Imported, m *nats.Msg) error {
	seq := at.Last
	if at.Events > 1 && seq != im.have && seq%1000 != 0 {
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
	ack, err := im.o.JS.PublishMsgAsync(m, jetstream.WithExpectStream(im.o.Stream))
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
