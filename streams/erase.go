package streams

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
)

// eraseRequests is how many requests of Erase are under way at once. The server carries them out one after
// the other, so more would not be faster.
const eraseRequests = 4

// Erase deletes the events at the given sequences from the stream and overwrites their bytes on
// disk. It returns how many it deleted. It is idempotent: sequences that are already deleted are
// skipped. After an error some of the events may still be in the stream.
//
// An event for which match returns false is not deleted, even if its sequence is in the list. The
// function match is called by several goroutines. A stream with a [Journal] needs [Journal.Erase].
func Erase(
	ctx context.Context, js jetstream.JetStream, stream string, seqs []uint64, match func(Stored) bool,
) (deleted int, err error) {
	st, err := js.Stream(ctx, stream)
	if err != nil {
		return 0, fmt.Errorf("get stream: %w", err)
	}
	_, deleted, err = remove(ctx, st, seqs, match, jetstream.Stream.SecureDeleteMsg)
	return deleted, err
}

// deleter deletes the message at a sequence.
type deleter func(jetstream.Stream, context.Context, uint64) error

// remove deletes events as Erase does. It returns which ones of them the stream does not have any more, and how many of
// these it deleted.
func remove(
	ctx context.Context, st jetstream.Stream, seqs []uint64, match func(Stored) bool, del deleter,
) (gone []uint64, deleted int, err error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	kept := make([]bool, len(seqs)) // because of match
	var next, done atomic.Int64
	var running sync.WaitGroup
	for range min(eraseRequests, len(seqs)) {
		running.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(seqs)) && ctx.Err() == nil; i = next.Add(1) - 1 {
				e, err := get(ctx, st, seqs[i])
				ok := false
				if err == nil {
					if kept[i] = !match(e); !kept[i] {
						ok, err = deleteOne(ctx, st, seqs[i], del)
					}
				}
				if err != nil && !errors.Is(err, ErrNotFound) {
					stop(err) // only the first error counts
				}
				if ok {
					done.Add(1)
				}
			}
		})
	}
	running.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, int(done.Load()), err
	}
	for i, seq := range seqs {
		if !kept[i] {
			gone = append(gone, seq)
		}
	}
	return gone, int(done.Load()), nil
}

// SecureDelete deletes a message and overwrites its bytes. It returns false if there is none, also if somebody else
// deletes it at the same time.
func SecureDelete(ctx context.Context, st jetstream.Stream, seq uint64) (deleted bool, err error) {
	return deleteOne(ctx, st, seq, jetstream.Stream.SecureDeleteMsg)
}

// deleteOne deletes a message. It returns false if there is none.
func deleteOne(ctx context.Context, st jetstream.Stream, seq uint64, del deleter) (bool, error) {
	err := del(st, ctx, seq)
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, jetstream.ErrMsgNotFound) {
		if _, getErr := st.GetMsg(ctx, seq); !errors.Is(getErr, jetstream.ErrMsgNotFound) {
			return false, fmt.Errorf("delete sequence %d: %w", seq, err)
		}
	}
	return false, nil // somebody else has deleted it
}

// CopiesOf returns the prefix of the names of the streams in which copies of a stream's events wait for
// those who read them.
func CopiesOf(stream string) string { return stream + "_OUT_" }

// EraseCopies deletes the copies of erased events from the streams of [CopiesOf], and overwrites their
// bytes. A copy has the headers of its event. The events are those of each page with the given ids
// ([domain.Tombstone].ID), and all of the contact of page, if one is given. It returns how many copies it
// deleted. If a stream of copies has none left, the bytes of those that were read before are removed too.
func EraseCopies(
	ctx context.Context, js jetstream.JetStream, stream string, ids map[domain.PageID]map[string]bool,
	page domain.PageID, contact domain.ContactID,
) (deleted int, err error) {
	names := js.StreamNames(ctx)
	var copies []string
	for name := range names.Name() {
		if strings.HasPrefix(name, CopiesOf(stream)) {
			copies = append(copies, name)
		}
	}
	if err := names.Err(); err != nil {
		return 0, fmt.Errorf("list streams of copies: %w", err)
	}
	for _, name := range copies {
		n, err := eraseCopies(ctx, js, name, func(h nats.Header) bool {
			of, err := pageOf(h.Get(HeaderSource))
			return err == nil && (ids[of][hex.EncodeToString(domain.IDKey(h.Get(HeaderID)))] ||
				contact != "" && of == page && h.Get(HeaderSubject) == escape(string(contact)))
		})
		deleted += n
		if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) { // it was removed meanwhile
			return deleted, fmt.Errorf("erase copies in %s: %w", name, err)
		}
	}
	return deleted, nil
}

// eraseCopies deletes the messages whose headers match. It reads them one by one, because a stream may not
// allow another consumer.
func eraseCopies(
	ctx context.Context, js jetstream.JetStream, name string, match func(nats.Header) bool,
) (deleted int, err error) {
	st, err := js.Stream(ctx, name)
	if err != nil {
		return 0, err
	}
	state := st.CachedInfo().State
	for seq := max(1, state.FirstSeq); seq <= state.LastSeq; seq++ {
		m, err := st.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(">")) // the first one from seq on
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return deleted, err
		}
		if seq = m.Sequence; !match(m.Header) {
			continue
		}
		ok, err := SecureDelete(ctx, st, seq)
		if err != nil {
			return deleted, err
		}
		if ok {
			deleted++
		}
	}
	info, err := st.Info(ctx)
	if err != nil || info.State.Msgs > 0 || info.State.LastSeq == 0 {
		return deleted, err
	}
	// This removes the file, unless a copy is stored at this moment.
	return deleted, st.Purge(ctx, jetstream.WithPurgeSequence(info.State.LastSeq+1))
}
