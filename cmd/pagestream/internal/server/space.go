package server

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/internal/backoff"
	"github.com/pagestream/pagestream/internal/disk"
	"github.com/pagestream/pagestream/streams"
)

// errFull is returned while a limit leaves no room for deliveries.
var errFull = errors.New("there is no space left")

// space measures how much of each limit is used. [meta.Space] decides what that means.
type space struct {
	p    *Program
	list atomic.Pointer[[]meta.Space]
	// levels are the levels that were reported, by setting. Only poll uses it.
	levels map[string]meta.SpaceLevel
}

// now returns what was measured last.
func (s *space) now() []meta.Space {
	if list := s.list.Load(); list != nil {
		return *list
	}
	return nil
}

// measure measures the limits and reports changes of their levels. What can't be measured now, because the
// server does not answer, stays as it was.
//
// It returns the error of asking the server; ask is false if it is known that it does not answer.
func (s *space) measure(ctx context.Context, ask bool) (err error) {
	tell := func(int64) {}
	if s.p.journal != nil {
		tell = s.p.journal.Measure()
	}
	var stored []meta.Space
	for _, old := range s.now() {
		if old.Setting != meta.SettingDataDir && old.Setting != meta.SettingProjections {
			stored = append(stored, old)
		}
	}
	disks := s.disks(stored)
	known := false
	if ask && !slices.ContainsFunc(disks, meta.Space.StopsIngest) { // a server with a full disk may not answer
		var asked []meta.Space
		if asked, err = s.stored(ctx); err == nil {
			stored, known = asked, true
		}
	}
	list := slices.Concat(stored, disks)
	s.list.Store(&list)
	s.report(list)
	if known { // otherwise what was told before holds, less what was accepted since
		tell(s.left())
	}
	return err
}

// stored measures the limits of what is stored in NATS.
func (s *space) stored(ctx context.Context) (list []meta.Space, err error) {
	account, err := s.p.js.AccountInfo(ctx)
	if err != nil {
		return nil, fmt.Errorf("JetStream: %w", err)
	}
	stream, err := s.p.js.Stream(ctx, streams.Name)
	if err != nil {
		return nil, fmt.Errorf("read stream info: %w", err)
	}
	if err := streams.CheckRestoring(stream.CachedInfo(), ""); err != nil { // in the place of the one that is used here
		s.p.fail(err)
		return nil, err
	}
	s.p.health.durable.saw(stream.CachedInfo())
	used, limit := account.Store, account.Limits.MaxStore
	if tier, tiered := account.Tiers[fmt.Sprintf("R%d", stream.CachedInfo().Config.Replicas)]; tiered {
		used, limit = tier.Store, tier.Limits.MaxStore
	}
	switch {
	case s.p.server != nil:
		list = append(list, meta.StoreSpace(meta.SettingMaxStore, int64(used), s.p.server.MaxStore()))
	case limit > 0:
		list = append(list, meta.StoreSpace(meta.SettingNATS, int64(used), limit))
	}
	if info := stream.CachedInfo(); info.Config.MaxBytes > 0 {
		list = append(list, meta.StoreSpace(meta.SettingMaxBytes, int64(info.State.Bytes), info.Config.MaxBytes))
	}
	return list, nil
}

// disks measures the disks of the stream and of the read models, once if that is the same. A disk that can't be
// measured, as on some systems, is left out.
func (s *space) disks(stored []meta.Space) (list []meta.Space) {
	dir := s.p.cfg.ProjectionsDir()
	used := disk.Used(dir)
	models, err := disk.Of(dir)
	if s.p.server == nil {
		if err == nil {
			list = append(list, meta.DiskSpace(meta.SettingProjections, used, models.Free, models.Total, false))
		}
		return list
	}
	of, ofErr := disk.Of(s.p.natsDir())
	if ofErr != nil {
		return nil
	}
	inStream := int64(0)
	for _, l := range stored {
		if l.Setting == meta.SettingMaxStore {
			inStream = l.Used
		}
	}
	if err == nil && !of.Same(models) {
		list = append(list, meta.DiskSpace(meta.SettingProjections, used, models.Free, models.Total, false))
		used = 0
	}
	return append(list, meta.DiskSpace(meta.SettingDataDir, inStream+used, of.Free, of.Total, true))
}

// natsDir returns the directory of the embedded server.
func (p *Program) natsDir() string { return filepath.Join(p.cfg.Data.Dir, "nats") }

// full returns an error if a limit leaves no room for deliveries.
func (s *space) full() error {
	for _, l := range s.now() {
		if l.StopsIngest() {
			return fmt.Errorf("%w: %s", errFull, l)
		}
	}
	return nil
}

// left returns how many bytes are left for deliveries.
func (s *space) left() int64 {
	left := int64(math.MaxInt64)
	for _, l := range s.now() {
		if l.Ingest {
			left = min(left, l.Max-l.Used)
		}
	}
	return left
}

// report logs each change of a level, and puts it on record. What has no room for the record is only logged.
func (s *space) report(list []meta.Space) {
	if s.levels == nil {
		s.levels = map[string]meta.SpaceLevel{}
	}
	for _, l := range list {
		level, before := l.Level(), s.levels[l.Setting]
		if level == before {
			continue
		}
		s.levels[l.Setting] = level
		if level > before {
			s.p.log.Warn("space is running out", "limit", l.Setting, "level", level, "space", l)
		} else {
			s.p.log.Info("there is more space again", "limit", l.Setting, "level", level, "space", l)
		}
		s.p.history.Note("space", map[string]string{"limit": l.Setting, "level": fmt.Sprintf("%d%%", level)})
	}
}

// outcome is the result of a publish.
type outcome struct {
	err  error // nil if the stream took events
	full bool  // there was no space
	at   time.Time
	left int64 // what was left for deliveries, as it was last measured
}

// outcomeAge is how long a publish that was not answered counts while no other follows. It is longer than the
// committer waits for an answer, so that a stream that answers nothing is not taken for a healthy one between.
const outcomeAge = 2 * streams.DefaultAckTimeout

// published takes account of a publish by the committer.
func (h *health) published(o streams.BatchObservation) {
	h.last.Store(&outcome{o.Failed(), o.Full(), time.Now(), h.space.left()})
}

// publishError returns the error of the last publish until one succeeds, or until there is reason to believe that
// one would: for want of space, that there is more of it (see forget), otherwise that nobody has tried for a while.
func (h *health) publishError() error {
	last := h.last.Load()
	if last == nil || last.err == nil || !last.full && time.Since(last.at) > outcomeAge {
		return nil
	}
	return fmt.Errorf("the last publish failed: %w", last.err)
}

// forget drops a publish that failed for want of space when there is more space than then, or at the first check after
// it: what was known then may have been a second old.
// Only poll calls it, when a check has found nothing: a limit has room, but there was not enough for that event.
func (h *health) forget() {
	last := h.last.Load()
	if last == nil || !last.full {
		return
	}
	left := h.space.left()
	if h.refused != last {
		h.refused, h.refusedLeft = last, min(last.left, left)
	}
	if left > h.refusedLeft {
		h.last.CompareAndSwap(last, nil)
	}
}

// modelsTimeout bounds the wait for read models that are ahead of the stream.
const modelsTimeout = 30 * time.Second

// awaitModels waits until no read model is ahead of the stream. On a full disk one may have read events that
// were not on disk yet and are lost with the restart. Nobody was told that they were stored, but an index that
// has their ids would take them for duplicates when they come again. Deliveries are refused meanwhile, so that
// no other event gets their sequences before the model has noticed, and starts again.
func (h *health) awaitModels(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, modelsTimeout)
	defer cancel()
	pause := backoff.Backoff{Min: 20 * time.Millisecond, Max: 200 * time.Millisecond}
	if h.p.journal != nil { // which has all that a read model may have
		h.p.journal.Suspect()
		return h.p.journal.Complete(ctx)
	}
	last, err := streams.Last(ctx, h.p.js, streams.Name)
	for err != nil { // until the connection has reconnected
		if pause.Wait(ctx) != nil {
			return err
		}
		last, err = streams.Last(ctx, h.p.js, streams.Name)
	}
	for _, m := range h.p.models {
		before := m.Status()
		for s := before; s.Seq > last && s.Rebuilt == before.Rebuilt; s = m.Status() {
			if pause.Wait(ctx) != nil {
				err := fmt.Errorf("projection %s is at event %d, and the stream ends at %d: %w", m.Name(), s.Seq, last, ctx.Err())
				h.p.fail(err) // a new start compares them before anything is stored
				return err
			}
		}
	}
	return nil
}

// Bounds of the dedup window's margin, see uncovered.
const (
	windowMargin = 10 * time.Second
	windowMin    = 2 * time.Second // the index is never that far behind while it works
)

// errUncovered is returned while a delivery that comes again could be stored a second time.
var errUncovered = errors.New("the index of event ids is too far behind the stream to recognize repeated deliveries")

// uncovered returns errUncovered if an event that the index of ids lacks may be known neither to JetStream's
// dedup window, since it is too old, nor to the publisher, since too many have followed or another node has
// stored it.
func (h *health) uncovered() error {
	s := h.p.models.Deliveries().Status()
	if s.Damaged != "" { // see index
		return nil
	}
	known := h.p.cfg.NATS.URL == "" && s.Seq+1 >= max(h.p.headAtStart+1, h.p.publisher.Remembered())
	window := time.Duration(0)
	if h.p.cfg.NATS.URL != "" {
		window = h.p.cfg.Streams.Window
	}
	if known || s.LagAge < max(windowMin, window-min(windowMargin, window/4)) {
		return nil
	}
	err := fmt.Errorf("%w: by %d events for %s", errUncovered, s.Lag, s.LagAge.Round(time.Second))
	if s.LastError != "" {
		err = fmt.Errorf("%w: %s", err, s.LastError)
	}
	return err
}

// restartMax bounds the pause between two restarts of the embedded server: a disk that is full again and again is freed
// meanwhile, and deliveries are refused until the pause is over. settled is after how long without a restart the pause is
// short again.
const (
	restartMin = time.Second
	restartMax = 15 * time.Second
	settled    = 10 * time.Minute
	// outgrownEvery is how often it is looked whether the default limit of the store could be higher.
	outgrownEvery = 5 * time.Second
)

// broken returns why the embedded server has to be started again, or nil.
func (h *health) broken() error {
	s := h.p.server
	if s == nil {
		return nil
	}
	if err := s.Healthy(); err != nil {
		return err
	}
	for _, err := range s.WriteErrors() {
		return err
	}
	if h.damage.found.Load() {
		return errDamaged
	}
	if h.p.cfg.Streams.MaxStore > 0 || h.space.full() == nil || time.Since(h.outgrown) < outgrownEvery {
		return nil
	}
	h.outgrown = time.Now()
	return s.Outgrown()
}

// heal starts the embedded server again if it does not store events any more and a restart can change that. The
// server keeps the error of a failed write and refuses all that follow, so that no further publish is needed to
// see that it is still broken. It is left alone until there is room on its disk, and a file could be written.
func (h *health) heal(ctx context.Context) {
	if time.Now().Before(h.nextRestart) {
		return
	}
	why := h.broken()
	if why == nil {
		return
	}
	for _, l := range h.space.now() {
		if l.Setting == meta.SettingDataDir && l.Level() == meta.SpaceFull {
			return
		}
	}
	if disk.Probe(h.p.natsDir()) != nil {
		return
	}
	if time.Since(h.nextRestart) > settled {
		h.restarts = 0
	}
	h.restarts++
	restarting := fmt.Errorf("the embedded server is started again: %w", why)
	h.stored.Store(&restarting)
	h.p.log.Warn("the embedded server is started again", "why", why)
	began := time.Now()
	err := h.p.server.RestartAfter(ctx, h.mend)
	if err == nil {
		err = h.awaitModels(ctx)
	}
	if err == nil {
		h.damage.found.Store(false)
	}
	h.nextRestart = time.Now().Add(backoff.After(h.restarts, restartMin, restartMax))
	if err != nil {
		h.p.log.Error("the embedded server could not be started again", "err", err)
		return
	}
	h.last.Store(nil)
	h.p.log.Info("the embedded server was started again", "took", time.Since(began).Round(time.Millisecond))
	h.p.history.Note("restart", map[string]string{"server": "nats"})
}
