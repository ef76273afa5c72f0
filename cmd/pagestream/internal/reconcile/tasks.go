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

// TaskStream is the work queue. It holds at most one task a page, and none
// longer than an hour.
const TaskStream = "PAGESTREAM_TASKS"

const (
	taskPrefix     = "pagestream-tasks.check."
	taskDurable    = "reconcile"
	refreshDurable = "resubscribe"
	taskAge        = time.Hour
	taskTimeout    = 5 * time.Second
	ensureTimeout  = 15 * time.Second
	// A check that was not done by the third try has its next turn soon.
	taskTries = 3
	// The schedule looks sixty times an interval for what is due.
	ticks   = 60
	minTick = 20 * time.Millisecond
	maxTick = 10 * time.Second
)

// task is what a message of the queue asks for.
type task struct {
	Page domain.PageID `json:"page"`
	// At is when it fell due, in Unix milliseconds. A page that was looked at
	// since then needs no other look.
	At int64 `json:"at"`
}

// slot is a task to come.
type slot struct {
	page domain.PageID
	at   time.Time
}

// ensure makes the work queue, or brings it up to date.
func (r *Reconciler) ensure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, ensureTimeout)
	defer cancel()
	_, err := r.opts.JS.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:              TaskStream,
		Description:       "Pages to look at. A task that is lost comes again with the next interval.",
		Subjects:          []string{"pagestream-tasks.>"},
		Retention:         jetstream.WorkQueuePolicy,
		Storage:           jetstream.FileStorage,
		Discard:           jetstream.DiscardOld,
		MaxMsgsPerSubject: 1,
		MaxAge:            taskAge,
		Duplicates:        min(max(r.opts.Interval, time.Second), taskAge),
		Replicas:          max(1, r.opts.Replicas),
	})
	if err != nil {
		return fmt.Errorf("make work queue: %w", err)
	}
	return nil
}

// schedule queues what is due until the context ends.
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

// queue plans the interval that has begun and puts what is due in the queue.
// What can't be put there now is put there at the next tick.
func (r *Reconciler) queue(ctx context.Context, now time.Time) {
	period := now.UnixNano() / int64(r.opts.Interval)
	if period != r.period {
		if err := r.plan(now); err != nil {
			r.opts.Logger.Warn("pages can't be scheduled", "err", err)
			return
		}
		r.period = period
	}
	for len(r.slots) > 0 && !r.slots[0].at.After(now) {
		page := r.slots[0].page
		if !r.enqueue(ctx, page, now, strconv.FormatInt(period, 10)) {
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

// plan gives each connected page its moment in the first half of the interval,
// the same in every interval and on every node. A page that has fallen silent
// comes first.
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
	slices.SortFunc(r.slots, func(a, b slot) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.page, b.page)) })
	return nil
}

// put puts one task in the queue and reports whether it is there. The same page
// and name are one task, whichever node puts it there.
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
	_, err = r.opts.JS.PublishMsg(ctx, m, jetstream.WithMsgID(page.Token()+"-"+name), jetstream.WithExpectStream(TaskStream))
	if err != nil && ctx.Err() == nil {
		r.opts.Logger.Warn("task can't be queued", "page", page, "err", err)
	}
	return err == nil
}

// retries returns the pages whose next try is due and not queued yet.
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

func (r *Reconciler) markQueued(s slot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.entries[s.page]; e != nil {
		e.queued = s.at
	}
}

// worker works on the queue's tasks.
func (r *Reconciler) worker() *streams.Reactor {
	return streams.NewReactor(streams.ReactorOptions{
		Connect: r.opts.Connect, Stream: TaskStream, Filter: taskPrefix + "*", Durable: taskDurable,
		Timeout: r.opts.Timeout, MaxDeliver: taskTries, Handle: r.work, Logger: r.opts.Logger,
	})
}

// errCut is returned when the work was cut off; the task is given again.
var errCut = errors.New("work on the page was cut off")

func (r *Reconciler) work(ctx context.Context, m *message.Message) error {
	var t task
	if err := json.Unmarshal(m.Payload, &t); err != nil || t.Page == "" {
		return nil // not one of ours
	}
	if s, ok := r.Page(t.Page); ok && s.Checked.UnixMilli() > t.At {
		return nil
	}
	r.visit(ctx, t.Page)
	if errors.Is(ctx.Err(), context.Canceled) {
		return errCut
	}
	return nil
}
