package streams

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// frame is an event in the journal, with its sequence in the stream.
type frame struct {
	seq uint64
	at  time.Time // when it was stored
	msg *nats.Msg
	// size is of the message, in bytes.
	size int
	// event is the event as it is read from the stream, nil if it is known as encoded only.
	event *Replayed
}

// A frame's bytes are, in little endian: the time in nanoseconds (8 bytes), the length of the subject (2), the
// subject, the number of headers (2), each with its name and value, which have their lengths before them
// (2 each), and the data.

// appendFrame appends the bytes of a frame to b. Each header has one value.
func appendFrame(b []byte, f frame) []byte {
	text := func(s string) {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(s))) //nolint:gosec // all headers have less than 64 KiB
		b = append(b, s...)
	}
	b = binary.LittleEndian.AppendUint64(b, uint64(f.at.UnixNano()))
	text(f.msg.Subject)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(f.msg.Header))) //nolint:gosec // a dozen
	for name, values := range f.msg.Header {
		text(name)
		text(values[0])
	}
	return append(b, f.msg.Data...)
}

// decodeFrame is the inverse of appendFrame. It keeps nothing of b.
func decodeFrame(seq uint64, b []byte) (frame, error) {
	bad := func() (frame, error) { return frame{}, fmt.Errorf("journaled event %d: %w", seq, ErrMalformed) }
	number := func() (int, bool) {
		if len(b) < 2 {
			return 0, false
		}
		n := int(binary.LittleEndian.Uint16(b))
		b = b[2:]
		return n, true
	}
	text := func() (string, bool) {
		n, ok := number()
		if !ok || len(b) < n {
			return "", false
		}
		s := string(b[:n])
		b = b[n:]
		return s, true
	}
	if len(b) < 8 {
		return bad()
	}
	f := frame{seq: seq, at: time.Unix(0, int64(binary.LittleEndian.Uint64(b))).UTC(), msg: &nats.Msg{}}
	b = b[8:]
	var ok bool
	if f.msg.Subject, ok = text(); !ok {
		return bad()
	}
	n, ok := number()
	if !ok {
		return bad()
	}
	h := newHeaders(min(n, usualHeaders))
	for range n {
		name, ok := text()
		value, also := text()
		if !ok || !also {
			return bad()
		}
		h.set(name, value)
	}
	f.msg.Header = h.Header
	f.msg.Data = append([]byte(nil), b...)
	f.size = f.msg.Size()
	return f, nil
}

// arrival returns the frame as a message of the stream.
func (f frame) arrival() *arrival {
	return &arrival{seq: f.seq, subject: f.msg.Subject, header: f.msg.Header, data: f.msg.Data, at: f.at, event: f.event}
}
