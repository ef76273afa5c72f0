// Package export writes the stream to a file of one CloudEvent a line, and makes
// a stream of such a file again: with the same sequences, ids, data and times, so
// that every read model comes out the same.
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

// maxLine bounds a line: the largest event, and its quotes.
const maxLine = 128 << 20

// Options say what to export. JS and Stream are required.
type Options struct {
	JS     jetstream.JetStream
	Stream string
	// From and To are sequences; 0 is from the first, and to the head.
	From, To uint64
	Pages    []domain.PageID
	Types    []domain.Type
	// Progress, if not nil, is told the last sequence now and then.
	Progress func(seq uint64)
}

// Exported is what was written.
type Exported struct {
	Events uint64 `json:"events"`
	// Last is the sequence of the last line, 0 for none. To go on later: From
	// Last+1.
	Last uint64 `json:"last"`
}

// Write writes events in order, a line each, as of the head when it is called.
// What was erased is not in it.
func Write(ctx context.Context, o Options, w io.Writer) (out Exported, err error) {
	buffered := bufio.NewWriterSize(w, 1<<20)
	_, err = streams.ReadRaw(ctx, o.JS, streams.ReadOptions{Stream: o.Stream, From: o.From, To: o.To, Filters: o.filters()}, func(m streams.Raw) error {
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

// ToFile has write append lines to a file, which is made if it is not there. If it
// is, half a line at its end is cut off, and write is told the sequence of the last
// whole one, 0 for none. The file is synced before it returns.
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

// resume makes an export ready to be gone on with.
func resume(f *os.File) (last uint64, err error) {
	last, end, err := lastLine(f)
	if err != nil {
		return 0, fmt.Errorf("read export: %w", err)
	}
	if err := f.Truncate(end); err != nil {
		return 0, fmt.Errorf("cut off half a line: %w", err)
	}
	if _, err := f.Seek(end, io.SeekStart); err != nil {
		return 0, fmt.Errorf("go to the end: %w", err)
	}
	return last, nil
}

// lastLine returns the sequence of the last whole line, and where it ends.
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

// readLine returns a whole line with its end, or io.EOF also for half a line.
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
