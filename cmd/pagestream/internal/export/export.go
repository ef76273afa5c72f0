// Package export writes the stream to a file with one CloudEvent per line, and
// restores a stream from such a file: with the same sequences, ids, data and times,
// so that every read model has the same contents. An export has no token, not even a
// sealed one.
package export

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// maxLine bounds a line in bytes: the largest event with JSON escapes.
const maxLine = 128 << 20

// Options configure [Write]. JS and Stream are required.
type Options struct {
	JS     jetstream.JetStream
	Stream string
	// From and To are the first and the last sequence. 0 means from the first event,
	// and up to the head.
	From, To uint64
	// Pages and Types select the events; none means all.
	Pages []domain.PageID
	Types []domain.Type
	// Progress, if not nil, is called with the sequence of every 1,024th event.
	Progress func(seq uint64)
}

// Exported is the result of [Write].
type Exported struct {
	Events uint64 `json:"events"`
	// Last is the sequence of the last line, 0 if there is none. To resume later,
	// set From to Last+1.
	Last uint64 `json:"last"`
}

// Write writes the events up to the head at the time of the call, in order, one per
// line. Erased events are not included.
func Write(ctx context.Context, o Options, w io.Writer) (out Exported, err error) {
	buffered := bufio.NewWriterSize(w, 1<<20)
	_, err = streams.ReadRaw(ctx, o.JS, streams.ReadOptions{
		Stream: o.Stream, From: o.From, To: o.To, Filters: o.filters(),
	}, func(m streams.Raw) error {
		b, err := encode(m)
		if err != nil {
			return err
		}
		if _, err := buffered.Write(b); err != nil {
			return fmt.Errorf("write event %d: %w", m.Seq, err)
		}
		out.Events, out.Last = out.Events+1, m.Seq
		if o.Progress != nil && out.Events%1024 == 0 {
			o.Progress(m.Seq)
		}
		return nil
	})
	if err == nil {
		err = buffered.Flush()
	}
	return out, err
}

func (o Options) filters() (out []string) {
	if len(o.Pages) == 0 && len(o.Types) == 0 {
		return nil
	}
	if len(o.Pages) == 0 {
		return streams.Filter("", o.Types...)
	}
	for _, page := range o.Pages {
		out = append(out, streams.Filter(page, o.Types...)...)
	}
	return out
}

// ToFile calls write to append lines to a file, which is created if it does not
// exist. An incomplete line at the end of an existing file is cut off. Write is
// called with the sequence of the last complete line, 0 if there is none. The file
// is synced before ToFile returns.
func ToFile(path string, write func(w io.Writer, last uint64) error) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open export: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	last, err := resume(f)
	if err != nil {
		return fmt.Errorf("%s: %w; name a new file", path, err)
	}
	if err := write(f, last); err != nil {
		return err
	}
	return f.Sync()
}

// resume cuts off an incomplete last line and moves to the end of the file. It
// returns the sequence of the last complete line, 0 if there is none.
func resume(f *os.File) (last uint64, err error) {
	last, end, err := lastLine(f)
	if err != nil {
		return 0, fmt.Errorf("read export: %w", err)
	}
	if err := f.Truncate(end); err != nil {
		return 0, fmt.Errorf("cut off incomplete line: %w", err)
	}
	if _, err := f.Seek(end, io.SeekStart); err != nil {
		return 0, fmt.Errorf("seek to the end: %w", err)
	}
	return last, nil
}

// lastLine returns the sequence of the last complete line, and its end's offset in
// bytes.
func lastLine(r io.Reader) (seq uint64, end int64, err error) {
	in := bufio.NewReaderSize(r, 1<<20)
	for {
		b, err := readLine(in)
		switch {
		case errors.Is(err, io.EOF):
			return seq, end, nil
		case err != nil:
			return 0, 0, err
		}
		if _, seq, err = decode(b); err != nil {
			return 0, 0, err
		}
		end += int64(len(b))
	}
}

// readLine returns a complete line with its newline. At the end of the input it
// returns io.EOF, together with the bytes of an incomplete line.
func readLine(r *bufio.Reader) ([]byte, error) {
	var b []byte
	for {
		part, err := r.ReadSlice('\n')
		b = append(b, part...)
		switch {
		case len(b) > maxLine:
			return nil, fmt.Errorf("%w: it is too long", ErrLine)
		case err == nil:
			return b, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return bytes.Clone(b), err
		}
	}
}
