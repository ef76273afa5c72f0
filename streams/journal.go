package streams

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/internal/journal"
)

// DefaultJournalBytes is the default of [JournalOptions].Limit.
const DefaultJournalBytes = 64 << 20

// Bounds of a journal.
const (
	// checkpointEvery is the longest time between two checkpoints while events are stored, and checkpointBytes
	// from how many bytes of events on there is one earlier.
	checkpointEvery = time.Second
	checkpointBytes = 16 << 20
	// settleTimeout bounds how long a checkpoint waits until JetStream has written an event to its files.
	settleTimeout = 5 * time.Second
	settlePoll    = 2 * time.Millisecond
	// keptLimits is how many times [JournalOptions].Limit the files may have until there is a checkpoint. It is not
	// reached in the seconds that a checkpoint takes on a slow disk: 512 MiB are half a minute of 17 MB/s.
	keptLimits = 8
	// closeTimeout bounds how long Close waits for JetStream.
	closeTimeout = 3 * time.Second
	// shipEvents and shipBytes bound what is sent to JetStream with one acknowledgement.
	shipEvents = 128
	shipBytes  = 4 << 20
	shipMax    = time.Second // the longest pause before JetStream is tried again
)

// ErrJournal is returned when the events of a journal can't be added to the stream, because they do not follow its
// last one: the stream was replaced by another, or by an older copy.
var ErrJournal = errors.New("the journal has events that do not follow the stream's last one")

// Checkpoints make what the stream has durable. embedded.Checkpoints implements it.
type Checkpoints interface {
	// Take makes durable what is in the files of the stream, and returns the sequence of the last event that is. An
	// event that JetStream has acknowledged may be missing: it is in the files soon after.
	Take() (uint64, error)
	// Overwrite replaces the bytes of events that were deleted, durably. They must be in the files, and the stream must
	// be the one that was created at that time. It must be called again, after JetStream has answered requests for
	// the events that it returns, until it returns none.
	Overwrite(ctx context.Context, created time.Time, deleted []uint64) (busy []uint64, err error)
}

// JournalOptions configure a [Journal]. Files and Checkpoints are required.
type JournalOptions struct {
	// Stream is the stream's name, by default [Name].
	Stream string
	// Files are the journal's files. Close closes them.
	Files       *journal.Journal
	Checkpoints Checkpoints
	// Tail, if not nil, gets each event when JetStream has it, see [NewFedTail].
	Tail *Tail
	// Limit is how many bytes of events may wait for JetStream. From half of it on events are stored as fast as JetStream
	// takes them; beyond it no more are accepted. The files also have what JetStream has taken since the last checkpoint:
	// together that is up to eight times as much, or once if checkpoints fail, and a segment of what is not needed any more.
	Limit int64
	// AckTimeout bounds the wait for one acknowledgement of JetStream.
	AckTimeout time.Duration
	// Logger discards everything by default.
	Logger *slog.Logger
}

// Journal makes events durable before JetStream has them. An event is answered for when it is in the journal's
// files, synced. Then it is sent to JetStream, which needs no sync for each: a [Checkpoints] syncs the stream's
// files now and then, and after that the journal drops the events. After a crash the next start sends what the stream
// may have lost, with the same sequences and times.
//
// So no reader sees an event that is not durable. Consumers and read models see it when JetStream has it.
//
// Only one process can have a journal, and nothing else may write to the stream while it is open.
type Journal struct {
	js   jetstream.JetStream
	opts JournalOptions

	stop    context.CancelFunc
	stopped chan struct{}
	// checkpointing is held during a checkpoint.
	checkpointing sync.Mutex

	// records and frames are used again by each append.
	records []journal.Record
	frames  []byte

	mu        sync.Mutex
	created   time.Time // when the stream was created
	queue     []frame   // those after shipped, in order
	waiting   int64     // bytes of queue
	head      uint64    // the last event in the files
	shipped   uint64    // the last event that JetStream has acknowledged
	at        time.Time
	total     int64      // bytes of all events that were stored, with what JetStream needs in addition
	room      int64      // what total may become, see Measure
	since     int64      // bytes that were shipped after durable
	shipments []shipment // those of since, in order
	failed    error      // why nothing is shipped now
	// suspect is set if JetStream may lack what it has acknowledged, as after a reconnect: reconnects counts those
	// after which it was asked.
	suspect    bool
	reconnects uint64
	failing    error  // why there was no checkpoint
	durable    uint64 // the last event that a checkpoint had
	// last has the sequence of the last event by page and noun, of those that JetStream may lack or lose.
	last    map[string]uint64
	changed chan struct{} // closed and replaced when any of this changes
}

// shipment is what JetStream has acknowledged at once.
type shipment struct {
	last  uint64
	bytes int64
}

// OpenJournal sends to JetStream what the files have and the stream does not, and returns a journal that is ready for
// more. The caller must close it.
//
// [ErrJournal] is returned when the files' events do not follow the stream's, journal.ErrDamaged when they can't
// be read.
func OpenJournal(ctx context.Context, js jetstream.JetStream, o JournalOptions) (*Journal, error) {
	o.Stream = cmp.Or(o.Stream, Name)
	o.Limit = cmp.Or(max(o.Limit, 0), DefaultJournalBytes)
	o.AckTimeout = cmp.Or(max(o.AckTimeout, 0), DefaultAckTimeout)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	j := &Journal{
		js: js, opts: o, room: math.MaxInt64, reconnects: js.Conn().Stats().Reconnects,
		stopped: make(chan struct{}), last: map[string]uint64{}, changed: make(chan struct{}),
	}
	if err := j.recover(ctx); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	run, stop := context.WithCancel(context.Background())
	j.stop = stop
	go j.run(run)
	return j, nil
}

// recover makes the stream have all events of the files, and takes a checkpoint.
func (j *Journal) recover(ctx context.Context) error {
	st, err := lookUp(ctx, j.js, j.opts.Stream)
	if err != nil {
		return err
	}
	last := st.CachedInfo().State.LastSeq
	first, head := j.opts.Files.Range()
	if err := j.compare(ctx, first, last); err != nil {
		return err
	}
	if first > last+1 {
		return fmt.Errorf("the stream ends with event %d, the journal goes on with %d: %w", last, first, ErrJournal)
	}
	j.created, j.shipped, j.head = st.CachedInfo().Created, last, max(last, head)
	if j.at, err = j.lastStored(ctx, st); err != nil {
		return err
	}
	if head > last {
		j.opts.Logger.Info("events of the journal are added to the stream", "events", head-last)
	}
	if j.failed = j.sendFiles(ctx, last, j.head); j.failed != nil {
		if errors.Is(j.failed, journal.ErrDamaged) || ctx.Err() != nil {
			return j.failed
		}
		j.opts.Logger.Error("JetStream does not take the events of the journal; no more are accepted", "err", j.failed)
		return nil // run tries again
	}
	j.shipped = j.head
	if err := j.Settle(ctx); err != nil {
		return err
	}
	if _, head := j.opts.Files.Range(); head != j.head {
		return j.opts.Files.Begin(j.head)
	}
	return nil
}

// lastStored returns the stored time of the last event, which the files have or the stream.
func (j *Journal) lastStored(ctx context.Context, st jetstream.Stream) (at time.Time, err error) {
	err = j.opts.Files.Read(j.head, func(r journal.Record) error {
		f, err := decodeFrame(r.Seq, r.Data)
		at = f.at
		return err
	})
	if err != nil || !at.IsZero() {
		return at, err
	}
	m, err := st.GetLastMsgForSubject(ctx, All)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return at, nil
	case err != nil:
		return at, fmt.Errorf("get the last event: %w", err)
	}
	if at, err = StoredAt(m.Header, m.Time); err != nil {
		at = m.Time // the journal has not stored it
	}
	return at, nil
}

// sendFiles publishes the events of the files after one sequence up to another.
func (j *Journal) sendFiles(ctx context.Context, after, upto uint64) error {
	if after >= upto {
		return nil
	}
	var frames []frame
	done, next, bytes := errors.New("done"), after+1, 0
	err := j.opts.Files.Read(next, func(r journal.Record) error {
		if r.Seq != next {
			return fmt.Errorf("event %d is not in the journal: %w", next, ErrJournal)
		}
		next++
		f, err := decodeFrame(r.Seq, r.Data)
		if err != nil {
			return err
		}
		frames = append(frames, f)
		if bytes += f.size; len(frames) < shipEvents && bytes < shipBytes && r.Seq < upto {
			return nil
		}
		if err = j.send(ctx, frames); err == nil && r.Seq == upto {
			err = done
		}
		frames, bytes = nil, 0
		return err
	})
	switch {
	case errors.Is(err, done):
		return nil
	case err == nil: // the files end before that
		return fmt.Errorf("event %d is not in the journal: %w", next, ErrJournal)
	}
	return err
}

// compare returns [ErrJournal] if the stream has other events than the files, from a sequence to another. An event that the
// stream lacks may have been erased; see [Lost].
func (j *Journal) compare(ctx context.Context, from, to uint64) error {
	first, head := j.opts.Files.Range()
	from, to = max(from, first), min(to, head)
	if from > to {
		return nil
	}
	ids, done := map[uint64]string{}, errors.New("done")
	err := j.opts.Files.Read(from, func(r journal.Record) error {
		if r.Seq > to {
			return done
		}
		f, err := decodeFrame(r.Seq, r.Data)
		if err == nil {
			ids[r.Seq] = f.msg.Header.Get(HeaderID)
		}
		return err
	})
	if err != nil && !errors.Is(err, done) {
		return err
	}
	_, err = each(ctx, j.js, ReadOptions{Stream: j.opts.Stream, From: from, To: to}, func(a *arrival) error {
		if a.header.Get(HeaderID) != ids[a.seq] {
			return fmt.Errorf("event %d is another one in the stream: %w", a.seq, ErrJournal)
		}
		return nil
	})
	return err
}

// append makes the messages of items durable and returns the sequence of the first; those of the others follow. Only
// the committer calls it, while nothing else does.
func (j *Journal) append(items []*item) (uint64, error) {
	if err := j.keepPace(); err != nil {
		return 0, err
	}
	j.mu.Lock()
	first, at := j.head+1, j.at
	j.mu.Unlock()
	if now := time.Now().UTC(); now.After(at) { // stored times never go back
		at = now
	}
	frames := make([]frame, len(items))
	records, b := j.records[:0], j.frames[:0]
	var bytes int64
	stored := []string{at.Format(time.RFC3339Nano)}
	for i, it := range items {
		it.msg.Header[HeaderStoredAt] = stored
		it.msg.Header[jetstream.ExpectedLastSeqHeader] = []string{strconv.FormatUint(first+uint64(i)-1, 10)}
		frames[i] = frame{
			seq: first + uint64(i), at: at, msg: it.msg, event: it.event,
			size: it.size + it.grown + len(HeaderStoredAt) + len(stored[0]),
		}
		if it.event != nil {
			_, unchecked := it.msg.Header[jetstream.ExpectedStreamHeader]
			it.event.Seq, it.event.At, it.event.Unique = frames[i].seq, at, !unchecked
		}
		from := len(b)
		b = appendFrame(b, frames[i])
		records = append(records, journal.Record{Seq: frames[i].seq, Data: b[from:len(b):len(b)]})
		bytes += int64(frames[i].size)
	}
	if cap(b) <= keptFrames {
		j.records, j.frames = records, b
	}
	needed := bytes + int64(len(items))*shipOverhead
	if !j.hasRoom(needed) {
		return 0, ErrNoRoom
	}
	if err := j.opts.Files.Append(records); err != nil {
		return 0, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.head+1 != first { // the files were begun again, see replaced
		return 0, errReplaced
	}
	j.queue = append(j.queue, frames...)
	j.waiting += bytes
	j.total += needed
	j.head, j.at = frames[len(frames)-1].seq, at
	for _, f := range frames {
		j.last[nounOf(f.msg.Subject)] = f.seq
	}
	j.notify()
	return first, nil
}

// keptFrames is the largest buffer for the bytes of frames that is kept for the next append.
const keptFrames = 4 << 20

// keepPace waits while JetStream is far behind. If the committer went on, all would be refused soon; so it stores as fast
// as JetStream, the queue gives each page its turn, and the pages that send too much are refused.
func (j *Journal) keepPace() error {
	end := time.NewTimer(j.opts.AckTimeout)
	defer end.Stop()
	for {
		j.mu.Lock()
		waiting, changed, err := j.waiting, j.changed, j.full()
		j.mu.Unlock()
		if err != nil || waiting <= j.opts.Limit/2 {
			return err
		}
		if err := j.Refuses(); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-end.C:
			return fmt.Errorf("%d bytes of events wait for JetStream: %w", waiting, ErrOverloaded)
		}
	}
}

// lastOf returns the sequence of the last event with the page and the noun of a subject that JetStream may lack
// or lose, 0 if there is none.
func (j *Journal) lastOf(noun string) uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.last[noun]
}

// ErrNoRoom is returned when JetStream has no room for events.
var ErrNoRoom = errors.New("there is no room for the events in the stream")

// shipOverhead is how many bytes JetStream needs for an event in addition to a frame's size, at most: 34 for its record, and
// the headers that append adds.
const shipOverhead = 256

// Measure begins a measurement of the room that JetStream has, and returns a function that tells for how many bytes there
// is. Events for which there is no room are not accepted: JetStream would refuse them, and then all that follow. What was
// accepted and is not known to be in JetStream when the measurement begins takes of that room.
func (j *Journal) Measure() (tell func(bytes int64)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	acknowledged := j.total - j.waiting - int64(len(j.queue))*shipOverhead
	return func(bytes int64) {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.room = acknowledged + min(bytes, math.MaxInt64/2)
	}
}

// hasRoom reports whether there is room for events of so many bytes.
func (j *Journal) hasRoom(bytes int64) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.total+bytes <= j.room
}

// Refuses returns why no event is accepted now, nil if they are.
func (j *Journal) Refuses() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case j.failed != nil:
		return fmt.Errorf("%w: %w", ErrUnavailable, j.failed)
	case j.suspected():
		return fmt.Errorf("%w: JetStream was started again, and it is not known yet what it has", ErrUnavailable)
	case j.waiting > j.opts.Limit:
		return fmt.Errorf("%d bytes of events wait for JetStream: %w", j.waiting, ErrOverloaded)
	}
	return j.full()
}

// full returns an error if the files have as much as they may until there is a checkpoint. The caller must hold j.mu.
func (j *Journal) full() error {
	kept := j.waiting + j.since
	switch {
	case j.failing != nil && kept > j.opts.Limit:
		return fmt.Errorf("%w: %w", ErrUnavailable, j.failing)
	case kept > keptLimits*j.opts.Limit:
		return fmt.Errorf("%w: %d bytes of the stream are not synced yet; if that stays so, the disk is too slow", ErrOverloaded, kept)
	}
	return nil
}

// Complete waits until the stream has all that it has acknowledged, and more are accepted. It asks the server, which
// forgets what it could not write to a full disk, also while it goes on.
func (j *Journal) Complete(ctx context.Context) error {
	for {
		j.mu.Lock()
		changed, shipped, created := j.changed, j.shipped, j.created
		j.mu.Unlock()
		err := j.Refuses()
		if err == nil {
			info, err := Info(ctx, j.js, j.opts.Stream)
			if err != nil {
				return err
			}
			if info.State.LastSeq >= shipped && info.Created.Equal(created) {
				return nil
			}
			j.Suspect()
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return err
		}
	}
}

// suspected reports whether JetStream may lack what it has acknowledged. The caller must hold j.mu.
func (j *Journal) suspected() bool {
	return j.suspect || j.reconnects != j.js.Conn().Stats().Reconnects
}

// JournalStatus is the state of a [Journal].
type JournalStatus struct {
	// Waiting is how many events wait for JetStream.
	Waiting uint64 `json:"waiting"`
	// Bytes is the size of the journal's files.
	Bytes int64 `json:"bytes"`
	// Error says why JetStream does not get them now, or why it can't be made durable what it has.
	Error string `json:"error,omitempty"`
}

// Status returns the state of the journal.
func (j *Journal) Status() JournalStatus {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := JournalStatus{Waiting: j.head - j.shipped, Bytes: j.opts.Files.Size()}
	if err := cmp.Or(j.failed, j.failing); err != nil {
		s.Error = err.Error()
	}
	return s
}

// notify wakes those that wait for a change. The caller must hold j.mu.
func (j *Journal) notify() {
	close(j.changed)
	j.changed = make(chan struct{})
}

// Flush waits until JetStream has every event that was stored before the call.
func (j *Journal) Flush(ctx context.Context) error {
	j.mu.Lock()
	head := j.head
	j.mu.Unlock()
	for {
		j.mu.Lock()
		shipped, changed, failed := j.shipped, j.changed, j.failed
		j.mu.Unlock()
		if shipped >= head {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait until the stream has %d events of the journal: %w",
				head-shipped, errors.Join(ctx.Err(), failed))
		}
	}
}

// Settle makes everything durable in the stream's files, that is what was stored and what was deleted, and removes
// all events that were stored before the call from the journal's files.
func (j *Journal) Settle(ctx context.Context) error {
	if err := j.Flush(ctx); err != nil {
		return err
	}
	shipped, err := Last(ctx, j.js, j.opts.Stream) // or more, if an import has added events
	if err != nil {
		return err
	}
	if err := j.opts.Files.Rotate(); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	for {
		durable, err := j.checkpoint()
		if err != nil {
			return err
		}
		if durable >= shipped {
			return nil
		}
		if err := backoff.Sleep(limited, settlePoll); err != nil {
			return fmt.Errorf("wait until JetStream has written event %d: %w", shipped, err)
		}
	}
}

// Erase does what the function [Erase] does, also in the journal's files, and makes it durable. The server would write a
// block anew for each event, so it only deletes them, and the bytes are overwritten then.
func (j *Journal) Erase(ctx context.Context, seqs []uint64, match func(Stored) bool) (deleted int, err error) {
	if err := j.Flush(ctx); err != nil {
		return 0, err
	}
	st, err := lookUp(ctx, j.js, j.opts.Stream)
	if err != nil {
		return 0, err
	}
	info := st.CachedInfo()
	// A later event could get one of the sequences that the stream does not have yet.
	seqs = slices.DeleteFunc(slices.Clone(seqs), func(seq uint64) bool { return seq > info.State.LastSeq })
	gone, deleted, err := remove(ctx, st, seqs, match, jetstream.Stream.DeleteMsg)
	if err := errors.Join(err, j.Settle(ctx)); err != nil {
		return deleted, err
	}
	for {
		busy, err := j.opts.Checkpoints.Overwrite(ctx, info.Created, gone)
		if err != nil || len(busy) == 0 {
			return deleted, err
		}
		for _, seq := range busy {
			if _, err := st.GetMsg(ctx, seq); err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
				return deleted, fmt.Errorf("wait for the block of event %d: %w", seq, err)
			}
		}
	}
}

// checkpoint makes durable what is in the stream's files, and drops it from the journal.
func (j *Journal) checkpoint() (uint64, error) {
	j.checkpointing.Lock()
	defer j.checkpointing.Unlock()
	j.mu.Lock()
	shipped := j.shipped
	j.mu.Unlock()
	durable, err := j.opts.Checkpoints.Take()
	known := min(durable, shipped) // the events after that may be others, see replaced
	if err == nil {
		err = j.opts.Files.Drop(known)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for noun, seq := range j.last {
		if seq <= known {
			delete(j.last, noun)
		}
	}
	j.durable = max(j.durable, known)
	for len(j.shipments) > 0 && j.shipments[0].last <= known && err == nil {
		j.since -= j.shipments[0].bytes
		j.shipments = j.shipments[1:]
	}
	j.failing = err
	j.notify()
	if err != nil {
		return 0, fmt.Errorf("checkpoint: %w", err)
	}
	return durable, nil
}

// Close sends what waits to JetStream, takes a checkpoint and closes the files. If that fails nothing is lost: the next
// OpenJournal does it. The publisher must be closed before.
func (j *Journal) Close(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	err := j.Settle(limited)
	j.stop()
	<-j.stopped
	if err := errors.Join(err, j.opts.Files.Close()); err != nil {
		return fmt.Errorf("close journal: %w", err)
	}
	return nil
}
