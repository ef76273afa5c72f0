package streams

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// Erase removes the events at these sequences from the stream and overwrites
// their bytes on disk, and returns how many were there. It may be repeated: what
// is gone already is passed over. After an error some may be left.
//
// An event that does not match is left alone, whatever the list says.
func Erase(ctx context.Context, js jetstream.JetStream, stream string, seqs []uint64, match func(Stored) bool) (deleted int, err error) {
	st, err := js.Stream(ctx, stream)
	if err != nil {
		return 0, fmt.Errorf("ask stream: %w", err)
	}
	for _, seq := range seqs {
		e, err := get(ctx, st, seq)
		switch {
		case errors.Is(err, ErrNotFound):
			continue
		case err != nil:
			return deleted, err
		case !match(e):
			continue
		}
		err = st.SecureDeleteMsg(ctx, seq)
		if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
			if _, gone := get(ctx, st, seq); errors.Is(gone, ErrNotFound) {
				continue // another one was quicker
			}
			return deleted, fmt.Errorf("delete sequence %d: %w", seq, err)
		}
		deleted++
	}
	return deleted, nil
}
