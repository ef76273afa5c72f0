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
	// ErrNotEmpty says that the stream holds something else than the file begins
	// with.
	ErrNotEmpty = errors.New("the stream holds other events; import into a new installation")
	// ErrOrder says that the file is not in order.
	ErrOrder = errors.New("the sequences do not rise")
	// ErrCutOff says that the file ends in the middle of a line.
	ErrCutOff = errors.New("the file ends within a line; export it again, which goes on where it ends")
	// ErrStored says that somebody else writes to the stream.
	ErrStored = errors.New("an event has another sequence than it should; does somebody else write?")
)

const (
	// inFlight bounds the messages that are not confirmed yet.
	inFlight   = 512
	ackTimeout = 30 * time.Second
)

// fillerType is what stands in for a missing sequence until the end.
const fillerType = domain.Type("import.filler")

// ImportOptions say where to. JS and Stream are required.
type ImportOptions struct {
	JS       jetstream.JetStream
	Stream   string
	Progress func(seq uint64)
}

// Imported is what was read.
type Imported struct {
	Events uint64 `json:"events"`
	// Last is the last sequence, Gaps how many before it are in no event.
	Last uint64 `json:"last"`
	Gaps uint64 `json:"gaps"`
}

// Read stores the events of a file in an empty stream, each at its sequence and
// with its time. Nobody else may write, or read, meanwhile: until it returns
// there are fillers in the gaps. Cut off, it may be done again with the same file,
// and goes on.
func Read(ctx context.Context, o ImportOptions, r io.Reader) (out Imported, err error) {
	im := &importer{o: o}
	defer func() {
		if err != nil { // what is under way is stored before the next try
			err = errors.Join(err, im.settle(ctx, 0))
		}
	}()
	if err := im.begin(ctx); err != nil {
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
			err = im.take(ctx, b)
		}
		if err != nil {
			return im.out, fmt.Errorf("line %d: %w", n, err)
		}
	}
	if err := im.settle(ctx, 0); err != nil {
		return im.out, err
	}
	if im.out.Last < im.have {
		return im.out, ErrNotEmpty // the file is shorter than what is there
	}
	return im.out, im.purge(ctx)
}

type importer struct {
	o      ImportOptions
	stream jetstream.Stream
	have   uint64 // what the stream had at the start
	out    Imported
	// pending are confirmations that are due, in order.
	pending []due
	// recent and older are the ids that JetStream may remember.
	recent, older map[string]struct{}
	turned        time.Time
	window        time.Duration
}

type due struct {
	seq uint64
	ack jetstream.PubAckFuture
}

func (im *importer) begin(ctx context.Context) (err error) {
	if im.stream, err = im.o.JS.Stream(ctx, im.o.Stream); err != nil {
		return fmt.Errorf("ask stream: %w", err)
	}
	info := im.stream.CachedInfo()
	im.have, im.window, im.turned = info.State.LastSeq, info.Config.Duplicates, time.Now()
	im.recent, im.older = map[string]struct{}{}, map[string]struct{}{}
	return nil
}

// take stores one line, after fillers for what is missing before it.
func (im *importer) take(ctx context.Context, b []byte) error {
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
	if l.Type != rawType { // what is no event has no header of ours
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
		im.dedupID(m.Header.Get(streams.HeaderMsgID), seq) // it may be remembered from before
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

// compare looks whether the stream has the line's event already: the first, the
// last that it has, and one in a thousand between.
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

// publish stores a message, whose place is seq.
func (im *importer) publish(ctx context.Context, seq uint64, m *nats.Msg) error {
	m.Header.Set(streams.HeaderMsgID, im.dedupID(m.Header.Get(streams.HeaderMsgID), seq))
	ack, err := im.o.JS.PublishMsgAsync(m)
	if err != nil {
		return fmt.Errorf("store event %d: %w", seq, err)
	}
	im.pending = append(im.pending, due{seq, ack})
	return im.settle(ctx, inFlight)
}

// dedupID is the event's own, unless JetStream would take it for one that it has:
// the file may have an id twice, as the stream did.
func (im *importer) dedupID(id string, seq uint64) string {
	if time.Since(im.turned) > im.window {
		im.older, im.recent, im.turned = im.recent, map[string]struct{}{}, time.Now()
	}
	_, recent := im.recent[id]
	_, older := im.older[id]
	if id == "" || recent || older {
		id += "#" + strconv.FormatUint(seq, 10)
	}
	im.recent[id] = struct{}{}
	return id
}

// settle waits until no more than most confirmations are due.
func (im *importer) settle(ctx context.Context, most int) error {
	for len(im.pending) > most {
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
			return fmt.Errorf("store event %d: no answer in %s", d.seq, ackTimeout)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// purge takes the fillers away.
func (im *importer) purge(ctx context.Context) error {
	if err := im.stream.Purge(ctx, jetstream.WithPurgeSubject(streams.Subject(domain.NoPage, fillerType))); err != nil {
		return fmt.Errorf("remove fillers: %w", err)
	}
	return nil
}
