package webhook

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// Bounds of the buffers for bodies. A buffer grows by growth when it is full, up to the limit of a body;
// those of up to maxPooled bytes are used again.
const (
	minBuffer  = 4 << 10
	growth     = 4
	firstMost  = 16 << 10 // the first buffer is no larger, because a sender can claim any length
	maxPooled  = 1 << 20
	smallBody  = 256 << 10
	poolsCount = 5 // 4 KiB, 16 KiB, 64 KiB, 256 KiB, 1 MiB
)

// Bounds of the time in which a body must arrive: it may take slowGrace, and then a second for each slowRate
// bytes that have arrived.
const (
	slowGrace = 2 * time.Second
	slowRate  = 16 << 10
	slowStep  = 100 * time.Millisecond // by which the deadline is moved at least
)

// errInflight is returned when the bodies in memory have used up the budget.
var errInflight = errors.New("too many bytes of bodies are in memory")

// budget bounds the bytes of all bodies that are in memory and were not parsed yet. A body takes what its
// buffer has when the buffer grows, so a sender can't use it up by claiming a length. Only small bodies may use
// the last quarter: then a few large ones don't keep out Meta's usual deliveries.
type budget struct {
	mu    sync.Mutex
	left  int64
	limit int64
}

// take takes n bytes for a buffer that will have size bytes.
func (b *budget) take(n, size int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	keep := int64(0)
	if size > smallBody {
		keep = b.limit / 4
	}
	if b.left-n < keep {
		return false
	}
	b.left -= n
	return true
}

func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
}

// buffers has unused buffers by size.
var buffers [poolsCount]sync.Pool

// poolOf returns the pool for buffers of a size, nil if they are not pooled.
func poolOf(size int64) *sync.Pool {
	n := int64(minBuffer)
	for i := range buffers {
		if size == n {
			return &buffers[i]
		}
		n *= growth
	}
	return nil
}

// sizeFor returns the size of the buffer for n bytes, at most limit where that is larger than the largest
// pooled size.
func sizeFor(n, limit int64) int64 {
	size := int64(minBuffer)
	for size < n {
		size *= growth
	}
	if size > maxPooled {
		return max(n, min(size, limit))
	}
	return size
}

// received is a body in memory. Its bytes must not be used after recycle.
type received struct {
	bytes  []byte
	held   int64 // of the budget
	budget *budget
}

// release gives back the body's part of the budget.
func (b *received) release() {
	b.budget.give(b.held)
	b.held = 0
}

// recycle lets another body use the buffer. It must not be called while anything may still refer to the bytes.
func (b *received) recycle() {
	if pool := poolOf(int64(cap(b.bytes))); pool != nil {
		buf := b.bytes[:0]
		pool.Put(&buf)
	}
	b.bytes = nil
}

// grow gives the body a buffer of size bytes.
func (b *received) grow(size int64) error {
	before := b.bytes
	if !b.budget.take(size-int64(cap(before)), size) {
		return errInflight
	}
	b.held += size - int64(cap(before))
	if pool := poolOf(size); pool != nil {
		if buf, ok := pool.Get().(*[]byte); ok {
			b.bytes = (*buf)[:copy((*buf)[:size], before)]
		}
	}
	if int64(cap(b.bytes)) != size {
		b.bytes = append(make([]byte, 0, size), before...)
	}
	old := received{bytes: before}
	old.recycle()
	return nil
}

// receive reads the whole body of a request. It fails with *[http.MaxBytesError] if it is larger than limit, with
// errInflight if the budget does not suffice, and with [os.ErrDeadlineExceeded] if it arrives too slowly, or takes
// longer than most.
func receive(
	w http.ResponseWriter, r *http.Request, limit int64, most time.Duration, within *budget,
) (*received, error) {
	if r.ContentLength > limit {
		return nil, &http.MaxBytesError{Limit: limit}
	}
	b := &received{budget: within}
	if err := b.fill(w, r, limit, most); err != nil {
		b.release()
		b.recycle()
		return nil, err
	}
	return b, nil
}

// fill reads the body of a request.
func (b *received) fill(w http.ResponseWriter, r *http.Request, limit int64, most time.Duration) error {
	// One byte more than the length, so that the end is found without another buffer.
	if err := b.grow(sizeFor(min(max(r.ContentLength, 0)+1, firstMost), limit+1)); err != nil {
		return err
	}
	control, began := http.NewResponseController(w), time.Now()
	deadline := began.Add(min(slowGrace, most))
	_ = control.SetReadDeadline(deadline) // a connection without deadlines has the server's limits only
	body := http.MaxBytesReader(w, r.Body, limit)
	for {
		if len(b.bytes) == cap(b.bytes) {
			if err := b.grow(sizeFor(int64(cap(b.bytes))+1, limit+1)); err != nil {
				return err
			}
		}
		n, err := body.Read(b.bytes[len(b.bytes):cap(b.bytes)])
		b.bytes = b.bytes[:len(b.bytes)+n]
		if errors.Is(err, io.EOF) {
			_ = control.SetReadDeadline(time.Time{}) // the server sets it again for the next request
			return nil
		}
		if err != nil {
			return fmt.Errorf("read body: %w", err)
		}
		next := began.Add(min(slowGrace+time.Duration(len(b.bytes))*time.Second/slowRate, most))
		if next.Sub(deadline) > slowStep {
			deadline = next
			_ = control.SetReadDeadline(deadline)
		}
	}
}

// tooSlow reports whether a body was not read because it arrived too slowly.
func tooSlow(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
