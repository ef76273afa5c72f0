package streams

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// Erase deletes the events at the given sequences from the stream and overwrites their bytes on
// disk. It returns how many it deleted. It is idempotent: sequences that are already deleted are
// skipped. After an error some of the events may still be in the stream.
//
// An event for which match returns false is not deleted, even if its sequence is in the list.
func Erase(
	ctx context.Context, js jetstream.JetStream, stream string, seqs []uint64, match func(Stored) bool,
) (deleted int, err error) {
	st, err := js.Stream(ctx, stream)
	if err != nil {
		return 0, fmt.Errorf("get stream: %w", err)
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
			if _, getErr := get(ctx, st, seq); errors.Is(getErr, ErrNotFound) {
				continue // it was deleted by somebody else meanwhile
			}
			return deleted, fmt.Errorf("delete sequence %d: %w", seq, err)
		}
		deleted++
	}
	return deleted, nil
}
