//go:build linux

package faults

import (
	"cmp"
	crand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// healLimit bounds the time in which the program is expected to recover without a restart.
const healLimit = 20 * time.Second

// follows is how fast readiness follows what happens to deliveries, with the time of a poll.
const follows = 1500 * time.Millisecond

// running starts a site and a load on it, with its data in a directory, and waits for its first messages.
func (f *trial) running(t *testing.T, data string) *site {
	t.Helper()
	s := f.site(t, data)
	s.startLoaded(t)
	s.awaitAcks(t, 1)
	return s
}

// startLoaded starts the program, and the load if it is stopped.
func (s *site) startLoaded(t *testing.T) {
	t.Helper()
	s.start(t)
	s.load.start(t, s.ctx)
}

// stay waits for a time, or until the suite is interrupted.
func (f *trial) stay(d time.Duration) {
	select {
	case <-f.ctx.Done():
	case <-time.After(d):
	}
}

// killed ends the program with SIGKILL at random moments.
func killed(t *testing.T, f *trial) {
	s := f.running(t, "")
	for range f.rounds {
		s.awaitAcks(t, 50+rand.IntN(1500))
		began := time.Now()
		s.kill()
		s.fault(t, began)
		s.start(t)
		require.NoError(t, s.recovers(startLimit))
		s.check(t)
		f.done++
	}
}

// cutsOfADisk is how many power cuts a disk gets, which bounds the events that each check reads.
const cutsOfADisk = 10

// powerCut takes the disk away under load at random moments, and starts again on what had reached it.
func powerCut(t *testing.T, f *trial) { f.takeDisk(t, 0, false) }

// diskLost takes the disk away and leaves the program running on it for a while, as a disk does that fails before
// the machine stops. Nothing that is answered with 200 meanwhile may be lost.
func diskLost(t *testing.T, f *trial) { f.takeDisk(t, 2*time.Second, false) }

// streamDiskLost does the same with the read models on a disk that works.
func streamDiskLost(t *testing.T, f *trial) { f.takeDisk(t, 2*time.Second, true) }

// takeDisk takes the disk away, kills the program after a time, and starts it again on what is left.
//
// While the ioctl runs, Linux may let an fsync return without an error whose data are not on the disk (powerControl
// shows that), which a power cut does not do: nothing is answered after it. So POSTs that were sent before the
// ioctl returned and acknowledged after it began count as not answered, and are sent again. What is sent later
// has no such excuse.
func (f *trial) takeDisk(t *testing.T, leave time.Duration, modelsElsewhere bool) {
	uncertain := 0
	for f.done < f.rounds {
		d := newDisk(t, 512)
		s := f.site(t, d.dir)
		if modelsElsewhere {
			s.settings = fmt.Sprintf("projections: {dir: %q}", filepath.Join(t.TempDir(), "models"))
		}
		s.startLoaded(t)
		for range min(cutsOfADisk, f.rounds-f.done) {
			s.awaitAcks(t, 50+rand.IntN(3000))
			began := time.Now()
			require.NoError(t, d.cut())
			cut := time.Now()
			s.stay(leave)
			s.kill()
			s.load.stop(0)
			uncertain += s.load.sendAgain(func(p *post) bool { return p.acked.After(began) && p.sent.Before(cut) })
			s.fault(t, began)
			require.NoError(t, d.unmount())
			require.NoError(t, d.mount())
			s.startLoaded(t)
			require.NoError(t, s.recovers(startLimit))
			if modelsElsewhere {
				s.checkShortened(t) // the ledger may have counted what the stream has lost
			} else {
				s.check(t)
			}
			f.done++
		}
		t.Logf("%d of %d cuts", f.done, f.rounds)
		s.load.stop(startLimit)
		s.kill()
		d.remove()
	}
	f.tell("%d answered while the ioctl ran were sent again", uncertain)
}

// powerControl is powerCut without the program: four goroutines write and sync records, each to a file of its
// own. It tells what the method itself loses.
func powerControl(t *testing.T, f *trial) {
	const writers, record = 4, 1024
	late := 0
	for range f.rounds {
		d := newDisk(t, 64)
		var synced [writers]struct {
			n  int
			at time.Time
		}
		var writing sync.WaitGroup
		for w := range synced {
			file, err := os.Create(filepath.Join(d.dir, strconv.Itoa(w)))
			require.NoError(t, err)
			writing.Go(func() {
				defer file.Close()
				for n := 1; ; n++ {
					_, err := fmt.Fprintf(file, "%*d", record, n)
					if err != nil || file.Sync() != nil {
						return
					}
					synced[w].n, synced[w].at = n, time.Now()
				}
			})
		}
		f.stay(time.Duration(50+rand.IntN(200)) * time.Millisecond)
		began := time.Now()
		require.NoError(t, d.cut())
		writing.Wait()
		require.NoError(t, d.unmount())
		require.NoError(t, d.mount())
		for w, last := range synced {
			f.syncs += last.n
			text, err := os.ReadFile(filepath.Join(d.dir, strconv.Itoa(w)))
			text = text[:min(len(text), last.n*record)]
			if last.n == 0 || strings.HasSuffix(string(text), fmt.Sprintf("%*d", record, last.n)) {
				continue
			}
			assert.True(t, last.at.After(began), "a sync from before the cut is lost: %v", err)
			late++
		}
		d.remove()
		f.done++
	}
	f.tell("%d syncs, each of which returned while the ioctl ran or just after, are lost; none from before", late)
}

// terminated ends the program with SIGTERM under load.
func terminated(t *testing.T, f *trial) {
	s := f.running(t, "")
	for range f.rounds {
		s.awaitAcks(t, 50+rand.IntN(500))
		began := time.Now()
		s.terminate(t)
		s.fault(t, began)
		s.start(t)
		require.NoError(t, s.recovers(startLimit))
		s.check(t)
		f.done++
	}
}

// stopped stops the program for as long as Meta waits for an answer.
func stopped(t *testing.T, f *trial) {
	s := f.running(t, "")
	for range f.rounds {
		s.awaitAcks(t, 200)
		began := time.Now()
		s.signal(t, syscall.SIGSTOP)
		s.stay(deliveryTimeout)
		s.signal(t, syscall.SIGCONT)
		s.fault(t, began)
		require.NoError(t, s.recovers(healLimit))
		s.check(t)
		f.done++
	}
}

// limited starts the program with limits that it can't keep. It must refuse to start and name the limit, or
// answer 503; with the right limits everything is there.
func limited(t *testing.T, f *trial) {
	s := f.site(t, "")
	s.load.padding, s.load.fast = strings.Repeat("x", 4000), true
	s.startLoaded(t)
	for range f.rounds {
		s.awaitAcks(t, 9000) // of 8 KB each, before compression
		s.load.stop(startLimit)
		s.terminate(t)
		for _, l := range []struct{ settings, limits, named string }{
			{settings: "streams: {max_bytes: 1KiB}", named: "streams.max_bytes"},
			{settings: "streams: {max_store: 1KiB}", named: "streams.max_store"},
			{settings: "streams: {max_bytes: 64MiB}", named: "max_bytes"},
			{settings: "streams: {max_store: 64MiB}", named: "max_store"},
			{limits: "ulimit -n 24", named: "open files"},
		} {
			s.settings, s.limits, s.unsupervised = l.settings, l.limits, true
			began := time.Now()
			require.NoError(t, os.Truncate(s.log(), 0))
			s.startLoaded(t)
			what := cmp.Or(l.settings, l.limits)
			s.fault(t, began)
			_ = s.eventually(5*time.Second, func() error {
				if _, ended := s.ended(0); ended {
					return nil
				}
				return errors.New("it runs")
			})
			_, ok := s.load.sinceFault()
			assert.False(t, ok, "%s: a POST was answered with 200", what)
			text, err := os.ReadFile(s.log())
			require.NoError(t, err)
			assert.Contains(t, string(text), l.named, "%s: the log says which limit it is", what)
			s.load.stop(0)
			s.kill()
		}
		s.settings, s.limits, s.unsupervised = "", "", false
		began := time.Now()
		s.fault(t, began)
		s.startLoaded(t)
		require.NoError(t, s.recovers(startLimit))
		s.check(t)
		f.done++
	}
}

// diskFull fills the disk under load and frees it again, without a restart.
func diskFull(t *testing.T, f *trial) {
	d := newDisk(t, 256)
	s := f.running(t, d.dir)
	for range f.rounds {
		s.awaitAcks(t, 500)
		began := time.Now()
		require.NoError(t, d.fill())
		require.NoError(t, s.eventually(startLimit, func() error {
			if s.load.lastFailure().Before(began) {
				return errors.New("every POST is answered with 200 on a full disk")
			}
			return nil
		}))
		assert.NoError(t, s.eventually(follows, s.readiness(false)), "while POSTs are answered with 503")
		s.stay(3 * time.Second)
		require.NoError(t, d.free())
		s.fault(t, began)
		s.heals(t, follows)
		s.check(t)
		f.done++
	}
}

// readiness returns a condition on GET /readyz.
func (s *site) readiness(want bool) func() error {
	return func() error {
		if s.ready() != want {
			return fmt.Errorf("readyz says that it is ready: %v", !want)
		}
		return nil
	}
}

// heals asserts that a POST is answered with 200 again without a restart, and that readiness follows. If not,
// it restarts the program, so that what was acknowledged can be checked.
func (s *site) heals(t *testing.T, readyWithin time.Duration) {
	t.Helper()
	if assert.NoError(t, s.recovers(healLimit), "it recovers without a restart") {
		assert.NoError(t, s.eventually(readyWithin, s.readiness(true)), "while POSTs are answered with 200")
		return
	}
	s.tell("200 only after a restart")
	s.kill()
	s.start(t)
	require.NoError(t, s.recovers(startLimit))
}

// modelsDiskFull fills the disk of the read models while the stream's has room. Deliveries may be answered with
// 200 or 503 meanwhile.
func modelsDiskFull(t *testing.T, f *trial) {
	d := newDisk(t, 256)
	s := f.site(t, "")
	s.settings = fmt.Sprintf("projections: {dir: %q}", filepath.Join(d.dir, "models"))
	s.startLoaded(t)
	for range f.rounds {
		s.awaitAcks(t, 500)
		began := time.Now()
		require.NoError(t, d.fill())
		before := s.load.count()
		s.stay(8 * time.Second)
		f.tell("%d acknowledged while it was full", s.load.count()-before)
		require.NoError(t, d.free())
		s.fault(t, began)
		s.heals(t, healLimit)
		s.check(t)
		f.done++
	}
}

// modelNames are the read models, the files of which are damaged in turn.
var modelNames = []string{"conversations", "deliveries", "pages", "subscriptions", "comments"}

func (s *site) model(round int) string {
	return filepath.Join(s.models(), modelNames[round%len(modelNames)]+".db")
}

// modelDamaged writes random bytes into the file of a read model of a killed program.
func modelDamaged(t *testing.T, f *trial) {
	s := f.running(t, "")
	for round := range f.rounds {
		s.awaitAcks(t, 500)
		began := time.Now()
		s.kill()
		require.NoError(t, scribble(s.model(round)))
		s.fault(t, began)
		s.start(t)
		require.NoError(t, s.recovers(startLimit), "%s is damaged", s.model(round))
		s.check(t)
		require.Zero(t, s.restarted, "the process goes on")
		f.done++
	}
}

// scribble writes random bytes over about half of the first 64 pages of a file, which are in use.
func scribble(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open read model: %w", err)
	}
	defer file.Close()
	page := make([]byte, 4096)
	for n := range int64(64) {
		if rand.IntN(2) == 0 {
			continue
		}
		if _, err := crand.Read(page); err != nil {
			return fmt.Errorf("make random bytes: %w", err)
		}
		if _, err := file.WriteAt(page, n*int64(len(page))); err != nil {
			return fmt.Errorf("damage read model: %w", err)
		}
	}
	return nil
}

// modelTruncated truncates the file of a read model to nothing while the program runs.
func modelTruncated(t *testing.T, f *trial) {
	f.harmRunning(t, func(path string) error { return os.Truncate(path, 0) })
}

// modelDeleted deletes the file of a read model while the program runs.
func modelDeleted(t *testing.T, f *trial) { f.harmRunning(t, os.Remove) }

// harmRunning harms the file of a read model under load. The program must go on, and make the file again.
func (f *trial) harmRunning(t *testing.T, harm func(path string) error) {
	s := f.running(t, "")
	for round := range f.rounds {
		s.awaitAcks(t, 500)
		began := time.Now()
		path := s.model(round)
		require.NoError(t, harm(path))
		s.fault(t, began)
		s.heals(t, healLimit)
		err := s.eventually(healLimit, func() error {
			if info, err := os.Stat(path); err != nil || info.Size() == 0 {
				return fmt.Errorf("%s was not built again", filepath.Base(path))
			}
			return nil
		})
		s.check(t)
		require.NoError(t, err)
		require.Zero(t, s.restarted, "the process goes on")
		s.load.stop(startLimit)
		s.terminate(t)
		s.startLoaded(t)
		f.done++
	}
}

// rolledBack restores an older copy of the stream below newer read models.
func rolledBack(t *testing.T, f *trial) { f.rollBack(t, false) }

// rolledBackAndGrown does the same, and the older stream has grown beyond the position of the read models before
// they see it, as with a node that was down meanwhile.
func rolledBackAndGrown(t *testing.T, f *trial) { f.rollBack(t, true) }

// rollBack restores an older copy of the stream. What was acknowledged since the copy is sent again and must be
// stored, and read models must have what the stream has.
func (f *trial) rollBack(t *testing.T, grow bool) {
	s := f.running(t, "")
	for range f.rounds {
		s.awaitAcks(t, 1000)
		s.pause(t)
		s.terminate(t)
		dir, saved := filepath.Join(s.data, "nats"), filepath.Join(s.dir, "saved")
		require.NoError(t, os.CopyFS(saved, os.DirFS(dir)))
		copied := time.Now()
		s.startLoaded(t)
		s.awaitAcks(t, 300)
		s.pause(t)
		s.awaitModels(t)
		s.terminate(t)
		began := time.Now()
		require.NoError(t, os.RemoveAll(dir))
		require.NoError(t, os.Rename(saved, dir))
		f.tell("%d acknowledged after the copy were sent again",
			s.load.sendAgain(func(p *post) bool { return p.acked.After(copied) }))
		if grow {
			s.settings = fmt.Sprintf("projections: {dir: %q}", filepath.Join(t.TempDir(), "models"))
			s.startLoaded(t)
			s.awaitAcks(t, 1000)
			s.pause(t)
			s.terminate(t)
			s.settings = ""
		}
		s.fault(t, began)
		s.startLoaded(t)
		require.NoError(t, s.recovers(startLimit))
		s.awaitAcks(t, 500)
		s.checkShortened(t)
		f.done++
	}
}

// awaitModels waits until conversations have the last event of the stream.
func (s *site) awaitModels(t *testing.T) {
	t.Helper()
	stored, err := s.readStream()
	require.NoError(t, err)
	require.NoError(t, s.eventually(checkLimit, func() error {
		_, err := s.readConversations(stored[len(stored)-1].seq)
		return err
	}))
}

// blockLost deletes a file of messages from the middle of the stream. Its loss must be said, with the
// sequences, and read models keep what they have.
func blockLost(t *testing.T, f *trial) {
	for range f.rounds {
		s := f.site(t, "")
		s.load.padding, s.load.fast = strings.Repeat("x", 4000), true
		s.startLoaded(t)
		require.NoError(t, s.eventually(2*time.Minute, func() error {
			if n := len(s.blocks()); n < 4 {
				return fmt.Errorf("the stream has %d files", n)
			}
			return nil
		}))
		s.pause(t)
		s.awaitModels(t)
		before, err := s.readStream()
		require.NoError(t, err)
		s.terminate(t)
		began := time.Now()
		require.NoError(t, os.Remove(s.blocks()[1]))
		s.fault(t, began)
		s.start(t)
		s.load.fast = false
		s.load.start(t, s.ctx)
		require.NoError(t, s.recovers(startLimit))
		s.pause(t)

		after, err := s.readStream()
		require.NoError(t, err)
		has := map[string]bool{}
		for _, m := range after {
			has[m.mid] = true
		}
		var gone []string
		var first, last uint64
		for _, m := range before {
			if !has[m.mid] {
				gone = append(gone, m.mid)
				first, last = cmp.Or(first, m.seq), m.seq
			}
		}
		require.NotEmpty(t, gone, "the file had messages")
		f.tell("the file had %d messages, which are not counted as lost", len(gone))
		shown, err := s.readConversations(0)
		require.NoError(t, err)
		missing, _, _ := compare(s.load.acked, shown)
		assert.Empty(t, missing, "conversations keep what the stream has lost")
		code, out := s.run("doctor")
		assert.Equal(t, 1, code, "doctor")
		assert.Regexp(t, fmt.Sprintf(`\b%d\b`, first), out, "doctor names the first sequence")
		assert.Regexp(t, fmt.Sprintf(`\b%d\b`, last), out, "doctor names the last sequence")
		code, _ = s.run("audit")
		assert.Equal(t, 1, code, "audit")
		s.load.forget(gone)
		s.compare("the stream", s.load.acked, after)
		assert.Empty(t, s.lost, "lost")
		assert.Empty(t, s.doubled, "doubled")
		f.done++
	}
}

// blocks returns the files of messages, in their order.
func (s *site) blocks() []string {
	files, _ := filepath.Glob(filepath.Join(s.stream(), "msgs", "*.blk"))
	slices.SortFunc(files, func(a, b string) int {
		return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
	})
	return files
}
