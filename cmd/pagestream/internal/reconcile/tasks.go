package reconcile

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
)

// TaskStream is the name of the work queue. It has at most one task for each page, and
// keeps a task for at most an hour.
const TaskStream = "PAGESTREAM_TASKS"

const (
	taskPrefix     = "pagestream-tasks.check."
	taskDurable    = "reconcile"
	refreshDurable = "resubscribe"
	taskAge        = time.Hour
	taskTimeout    = 5 * time.Second
	ensureTimeout  = 15 * time.Second
	// taskTries is how often a task is delivered; a page whose task is dropped is
	// checked in the next interval.
	taskTries = 3
	// ticks is how often per interval the schedule queues what is due.
	ticks   = 60
	minTick = 20 * time.Millisecond
	maxTick = 10 * time.Second
)

// task is a message of the queue: the page must be checked.
type task struct {
	Page domain.PageID `json:"page"`
	// At is when the check became due, in Unix milliseconds. If the page was checked
	// later, the task is skipped.
	At int64 `json:"at"`
}

// slot is a planned task.
type slot struct {
	page domain.PageID
	at   time.Time
}

// ensure creates the work queue or updates its configuration.
func (r *Reconciler) ensure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ensureTimeout)
	defer cancel()
	_, err := streams.EnsureBeside(ctx, r.opts.JS, streams.Name, jetstream.StreamConfig{
		Name:              TaskStream,
		Description:       "Pages to look at. A task that is lost comes again with the next interval.",
		Subjects:          []string{"pagestream-tasks.>"},
		Retention:         jetstream.WorkQueuePolicy,
		Storage:           jetstream.FileStorage,
		Discard:           jetstream.DiscardOld,
		MaxMsgsPerSubject: 1,
		MaxAge:            taskAge,
		Duplicates:        min(max(r.opts.Interval, time.Second), taskAge),
		Replicas:          r.opts.Replicas,
	})
	if err != nil {
		return fmt.Errorf("make work queue: %w", err)
	}
	return nil
}

// schedule queues the tasks that are due until the context ends.
func (r *Reconciler) schedule(ctx context.Context) {
	tick, stop := r.opts.Ticker(min(max(r.opts.Interval/ticks, minTick), maxTick))
	defer stop()
	for {
		r.queue(ctx, r.opts.Now())
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
	}
}

// queue plans the interval when a new one has begun, and enqueues the tasks that are
// due. What can't be enqueued now is tried again at the next tick.
func (r *Reconciler) queue(ctx context.Context, now time.Time) {
	period := now.UnixNano() / int64(r.opts.Interval)
	if period != r.period {
		if err := r.plan(now); err != nil {
			r.opts.Logger.Warn("pages can't be scheduled", "err", err)
			return
		}
		r.name = strconv.FormatInt(period, 10)
		if period < r.period { // the clock was set back
			r.setBack++
		}
		if r.setBack > 0 { // there may have been tasks of this period already
			r.name += "-" + strconv.Itoa(r.setBack)
		}
		r.period = period
	}
	for len(r.slots) > 0 && !r.slots[0].at.After(now) {
		page := r.slots[0].page
		if !r.enqueue(ctx, page, now, r.name) {
			return
		}
		r.slots = r.slots[1:]
	}
	for _, s := range r.retries(now) {
		if !r.enqueue(ctx, s.page, now, "again-"+strconv.FormatInt(s.at.UnixMilli(), 10)) {
			return
		}
		r.markQueued(s)
	}
}

// plan assigns each connected page a time in the first half of the interval, the same
// in every interval and on every node. Pages that have fallen silent are due at once.
func (r *Reconciler) plan(now time.Time) error {
	list, err := r.list()
	if err != nil {
		return err
	}
	silent := r.updateSilence(list)
	r.slots = make([]slot, 0, len(list))
	for _, page := range list {
		s := slot{page, now}
		if !slices.Contains(silent, page) {
			h := fnv.New64a()
			_, _ = h.Write([]byte(page)) // never fails
			s.at = now.Add(time.Duration(h.Sum64() % uint64(max(1, r.opts.Interval/2))))
		}
		r.slots = append(r.slots, s)
	}
	slices.SortFunc(r.slots, func(a, b slot) int {
		return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.page, b.page))
	})
	return nil
}

// enqueue adds one task to the queue and reports whether it is there. Tasks with the
// same page and name are stored once, whichever node adds them.
func (r *Reconciler) enqueue(ctx context.Context, page domain.PageID, now time.Time, name string) bool {
	b, err := json.Marshal(task{Page: page, At: now.UnixMilli()})
	if err != nil {
		r.opts.Logger.Error("task can't be encoded", "err", err)
		return true
	}
	m := nats.NewMsg(taskPrefix + page.Token())
	m.Data = b
	ctx, cancel := context.WithTimeout(ctx, taskTimeout)
	defer cancel()
	id := jetstream.WithMsgID(page.Token() + "-" + name)
	_, err = r.opts.JS.PublishMsg(ctx, m, id, jetstream.WithExpectStream(TaskStream))
	if err != nil && ctx.Err() == nil {
		r.opts.Logger.Warn("task can't be queued", "page", page, "err", err)
	}
	return err == nil
}

// retries returns the pages whose NextTry is due and has no task yet.
func (r *Reconciler) retries(now time.Time) (out []slot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for page, e := range r.entries {
		next := e.status.NextTry
		if !next.IsZero() && !next.After(now) && !next.Equal(e.queued) && !e.busy {
			out = append(out, slot{page, next})
		}
	}
	return out
}

// markQueued records that there is a task for the page's next try.
func (r *Reconciler) markQueued(s slot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.entries[s.page]; e != nil {
		e.queued = s.at
	}
}

// worker returns a reactor that works on the tasks of the queue.
func (r *Reconciler) worker() *streams.Reactor {
	return streams.NewReactor(streams.ReactorOptions{
		Connect: r.opts.Connect, Domain: r.opts.JS.Options().Domain, Stream: TaskStream,
		Filter: taskPrefix + "*", Durable: taskDurable,
		Timeout: r.opts.Timeout, MaxDeliver: taskTries, Handle: r.work, Logger: r.opts.Logger,
	})
}

// errCut is returned when the work on a task was canceled; the task is redelivered.
var errCut = errors.New("work on the page was cut off")

// work checks the page of one task.
func (r *Reconciler) work(ctx context.Context, m *message.Message) error {
	var t task
	if err := json.Unmarshal(m.Payload, &t); err != nil || t.Page == "" {
		return nil // not a task
	}
	// A check in the future was made before the clock was set back.
	if s, ok := r.Page(t.Page); ok {
		if at := s.Checked.UnixMilli(); at > t.At && at <= r.opts.Now().UnixMilli() {
			return nil
		}
	}
	r.visit(ctx, t.Page)
	if errors.Is(ctx.Err(), context.Canceled) {
		return errCut
	}
	return nil
}
