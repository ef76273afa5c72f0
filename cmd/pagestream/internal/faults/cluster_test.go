//go:build linux

package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	// copies is how many servers a cluster has, and copies the streams.
	copies = 3
	// electionLimit is how long POSTs may not be answered with 200 after a leader has died or was cut off. Raft
	// waits 4 to 9 s before it elects another one.
	electionLimit = 12 * time.Second
	// stepDownLimit is the same for a leader that hands over.
	stepDownLimit = 2 * time.Second
	// readyLimit is how much later than POSTs GET /readyz may follow.
	readyLimit = time.Second
	// outboxName is the consumer whose outbox the nodes fill.
	outboxName = "everything"
)

// cluster is three NATS servers, each a process in a network namespace of its own, which a bridge joins, and nodes of
// the program that use them.
type cluster struct {
	*trial

	binary, dir, bridge string
	network             string // of the addresses, without the last number
	members             []*member
	nodes               []*site
	watches             []*readiness
	watching            sync.WaitGroup
	stopWatching        chan struct{}
}

// member is one NATS server.
type member struct {
	name, namespace, device, address string
	dir                              string // of its files
	disk                             *disk  // nil without a disk of its own
	process                          *process
}

// reasonWithoutNetworks returns why network namespaces can't be made here, or "".
func reasonWithoutNetworks() string {
	if os.Geteuid() != 0 {
		return "network namespaces are made by root only"
	}
	for _, program := range []string{"ip", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			return err.Error()
		}
	}
	name := fmt.Sprintf("ps%04x", rand.IntN(1<<16))
	if err := command("ip", "netns", "add", name); err != nil {
		return err.Error()
	}
	return errorText(command("ip", "netns", "del", name))
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// newCluster starts three servers, each with files below the suite's directory or on a disk of its own. Processes,
// namespaces and the bridge are removed when the test ends.
func (f *trial) newCluster(t *testing.T, disks bool) *cluster {
	t.Helper()
	c := &cluster{
		trial: f, binary: buildServer(t), dir: t.TempDir(), bridge: fmt.Sprintf("ps%04x", rand.IntN(1<<16)),
		network: fmt.Sprintf("10.%d.%d.", 100+rand.IntN(100), rand.IntN(256)), stopWatching: make(chan struct{}),
	}
	if *work != "" {
		var err error
		c.dir, err = os.MkdirTemp(*work, f.name+"-") //nolint:usetesting // it is to stay
		require.NoError(t, err)
	}
	t.Cleanup(c.remove)
	require.NoError(t, command("ip", "link", "add", c.bridge, "type", "bridge"))
	require.NoError(t, command("ip", "addr", "add", c.network+"1/24", "dev", c.bridge))
	require.NoError(t, command("ip", "link", "set", c.bridge, "up"))
	for i := range copies {
		name := fmt.Sprint("n", i+1)
		m := &member{
			name: name, namespace: c.bridge + name, device: c.bridge + name, address: fmt.Sprint(c.network, 11+i),
			dir: filepath.Join(c.dir, name),
		}
		if disks {
			m.disk = newDisk(t, 512)
			m.dir = m.disk.dir
		}
		c.members = append(c.members, m)
		inside := m.device + "i"
		for _, args := range [][]string{
			{"netns", "add", m.namespace},
			{"link", "add", m.device, "type", "veth", "peer", "name", inside, "netns", m.namespace},
			{"link", "set", m.device, "master", c.bridge, "up"},
			{"-n", m.namespace, "addr", "add", m.address + "/24", "dev", inside},
			{"-n", m.namespace, "link", "set", inside, "up"},
			{"-n", m.namespace, "link", "set", "lo", "up"},
		} {
			require.NoError(t, command("ip", args...))
		}
	}
	if disks {
		t.Cleanup(c.killAll) // before the disks are unmounted
	}
	c.startAll(t)
	return c
}

// remove stops everything and removes the network. A namespace whose processes are gone has nothing else.
func (c *cluster) remove() {
	c.killAll()
	for _, m := range c.members {
		_ = command("ip", "netns", "del", m.namespace)
		_ = command("ip", "link", "del", m.device) // it may be there if its namespace was not made
	}
	_ = command("ip", "link", "del", c.bridge)
}

// buildServer builds the NATS server of the version that this module uses.
func buildServer(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nats-server")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", path, "github.com/nats-io/nats-server/v2")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "build the NATS server: %s", out)
	return path
}

// start starts a server that does not run.
func (c *cluster) start(t *testing.T, m *member) {
	t.Helper()
	var routes []string
	for i := range copies {
		routes = append(routes, fmt.Sprintf("nats://%s%d:6222", c.network, 11+i))
	}
	config := filepath.Join(c.dir, m.name+".conf")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `server_name: %s
listen: "%s:4222"
http: "%[2]s:8222"
max_payload: 32MB
cluster { name: faults, listen: "%[2]s:6222", routes: [%s] }
jetstream { store_dir: %q, sync_interval: always }
`, m.name, m.address, strings.Join(routes, ", "), filepath.Join(m.dir, "store")), 0o600))
	log, err := os.OpenFile(c.log(m), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	defer log.Close()
	// Both programs replace themselves, so that signals reach the server.
	cmd := exec.Command("nsenter", "--net=/run/netns/"+m.namespace, c.binary, "-c", config)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	m.process, err = startProcess(cmd)
	require.NoError(t, err)
}

func (c *cluster) log(m *member) string { return filepath.Join(c.dir, m.name+".log") }

func (c *cluster) startAll(t *testing.T) {
	t.Helper()
	for _, m := range c.members {
		c.start(t, m)
	}
}

// kill ends a server with SIGKILL.
func (m *member) kill() {
	if m.process == nil {
		return
	}
	_ = m.process.cmd.Process.Kill()
	<-m.process.ended
}

func (c *cluster) killAll() {
	for _, m := range c.members {
		m.kill()
	}
}

// signal sends a signal to a server.
func (m *member) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	require.NoError(t, m.process.cmd.Process.Signal(sig))
}

// cutOff takes a server off the network, and connected puts it back. Packets are dropped, connections are not closed.
func (m *member) cutOff(t *testing.T) {
	t.Helper()
	require.NoError(t, command("ip", "link", "set", m.device, "down"))
}

func (m *member) connected(t *testing.T) {
	t.Helper()
	require.NoError(t, command("ip", "link", "set", m.device, "up"))
}

// apart takes a server away from the other servers, but not from the nodes, and together ends that.
func (c *cluster) apart(t *testing.T, m *member, verb string) {
	t.Helper()
	for _, other := range c.members {
		if other != m {
			require.NoError(t, command("ip", "-n", m.namespace, "route", verb, "blackhole", other.address+"/32"))
		}
	}
}

// url returns the URLs of all servers, beginning with one of them.
func (c *cluster) url(first int) string {
	var urls []string
	for i := range copies {
		urls = append(urls, fmt.Sprintf("nats://%s:4222", c.members[(first+i)%copies].address))
	}
	return strings.Join(urls, ",")
}

// runningCluster starts a cluster with two nodes and a load on each, and waits for their first messages.
func (f *trial) runningCluster(t *testing.T, disks bool) *cluster {
	t.Helper()
	c := f.newCluster(t, disks)
	var monitors []string
	for _, m := range c.members {
		monitors = append(monitors, fmt.Sprintf("%q", "http://"+m.address+":8222"))
	}
	for i := range 2 {
		s := f.site(t, "")
		s.settings = fmt.Sprintf("nats: {url: %q, monitor_urls: [%s], replicas: %d}",
			c.url(i), strings.Join(monitors, ", "), copies)
		c.nodes = append(c.nodes, s)
	}
	t.Cleanup(func() { c.logEnds(t) })
	g := newGraph(t)
	for i, s := range c.nodes {
		s.graph, s.load.withLeads = g.server.URL, true
		s.keys = c.nodes[0].keyFile()
		s.load.index = i
		s.load.elsewhere = c.nodes[1-i].load.url
		s.start(t)
		// The first node makes the keys.
		require.NoError(t, s.eventually(startLimit, s.readiness(true)))
	}
	c.connectPage(t)
	code, out := c.nodes[0].run("consumers", "add", outboxName, "--all")
	require.Zero(t, code, out)
	for _, s := range c.nodes {
		s.load.start(t, s.ctx)
		s.awaitAcks(t, 100)
		w := &readiness{site: s}
		c.watches = append(c.watches, w)
		c.watching.Go(func() { w.run(c.stopWatching) })
	}
	t.Cleanup(func() {
		close(c.stopWatching)
		c.watching.Wait()
	})
	return c
}

func (c *cluster) logEnds(t *testing.T) {
	t.Helper()
	if !t.Failed() {
		return
	}
	for _, m := range c.members {
		t.Logf("the end of %s's log:\n%s", m.name, tail(c.log(m)))
	}
}

// leader returns the server that leads the stream of events, as one that is asked says.
func (c *cluster) leader(t *testing.T) *member {
	t.Helper()
	var leader *member
	require.NoError(t, c.nodes[0].eventually(startLimit, func() error {
		name, err := c.leaderName()
		if err != nil {
			return err
		}
		leader = c.named(name)
		if leader == nil {
			return fmt.Errorf("the leader is %q", name)
		}
		return nil
	}))
	return leader
}

func (c *cluster) named(name string) *member {
	for _, m := range c.members {
		if m.name == name {
			return m
		}
	}
	return nil
}

// follower returns one of the servers that don't lead.
func (c *cluster) follower(t *testing.T) *member {
	t.Helper()
	leader := c.leader(t)
	for _, i := range rand.Perm(copies) {
		if c.members[i] != leader {
			return c.members[i]
		}
	}
	return nil
}

// connect calls do with JetStream.
func (c *cluster) connect(do func(*nats.Conn, jetstream.JetStream) error) error {
	nc, err := nats.Connect(c.url(0), nats.Timeout(time.Second))
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	return do(nc, js)
}

func (c *cluster) leaderName() (name string, err error) {
	err = c.connect(func(_ *nats.Conn, js jetstream.JetStream) error {
		st, err := js.Stream(c.ctx, "PAGESTREAM")
		if err != nil {
			return err
		}
		if st.CachedInfo().Cluster != nil {
			name = st.CachedInfo().Cluster.Leader
		}
		return nil
	})
	return name, err
}

// replicated waits until each server has the whole stream.
func (c *cluster) replicated(t *testing.T) {
	t.Helper()
	require.NoError(t, c.nodes[0].eventually(startLimit, func() error {
		return c.connect(func(_ *nats.Conn, js jetstream.JetStream) error {
			st, err := js.Stream(c.ctx, "PAGESTREAM")
			if err != nil {
				return err
			}
			current := 0
			for _, p := range st.CachedInfo().Cluster.Replicas {
				if p.Current && !p.Offline {
					current++
				}
			}
			if current < copies-1 {
				return fmt.Errorf("%d of %d followers are current", current, copies-1)
			}
			return nil
		})
	}))
}

// awaitAcks waits until each node has acknowledged so many more messages.
func (c *cluster) awaitAcks(t *testing.T, more int) {
	t.Helper()
	for _, s := range c.nodes {
		s.awaitAcks(t, more)
	}
}

// fault marks now as the end of a fault that began at a time.
func (c *cluster) fault(t *testing.T, began time.Time) {
	t.Helper()
	for _, s := range c.nodes {
		s.fault(t, began)
	}
}

// recovers waits until each node answers a POST with 200 that was sent after the fault.
func (c *cluster) recovers(t *testing.T, limit time.Duration) {
	t.Helper()
	for _, s := range c.nodes {
		require.NoError(t, s.recovers(limit))
	}
}

// check checks everything that was acknowledged so far, by either node, at each of them: in the stream and in their
// read models, whose digests must be the same, and in the outbox that both fill. Then the load goes on.
func (c *cluster) check(t *testing.T) {
	t.Helper()
	all := map[string]ack{}
	for _, s := range c.nodes {
		s.pause(t)
		maps.Copy(all, s.load.acked)
	}
	for _, s := range c.nodes {
		s.checkMessages(t, all)
	}
	c.checkDigests(t)
	c.checkOutbox(t, all)
	if c.done+1 == c.rounds {
		c.checkLeads(t)
	}
	for _, s := range c.nodes {
		s.load.start(t, s.ctx)
	}
}

// checkDigests requires that both nodes have the same read models. Reactors may add events meanwhile: then the nodes are
// asked again.
func (c *cluster) checkDigests(t *testing.T) {
	t.Helper()
	for range 10 {
		var digests, positions []string
		for _, s := range c.nodes {
			digests = append(digests, s.digests(t))
			positions = append(positions, strings.Join(position.FindAllString(digests[len(digests)-1], -1), " "))
		}
		if positions[0] == positions[1] {
			assert.Equal(t, digests[0], digests[1], "the digests of both nodes")
			return
		}
	}
	assert.Fail(t, "the read models of both nodes are never at the same event")
}

// position is the position in a match of digest.
var position = regexp.MustCompile(`event \d+`)

// digest is a read model, its position and its digest in what "projections verify" prints.
var digest = regexp.MustCompile(`(?m)^(\w+): equal at event (\d+), digest (\w+)`)

// digests requires that each read model is what the stream makes, and returns their digests.
func (s *site) digests(t *testing.T) string {
	t.Helper()
	out := s.verify(t)
	found := digest.FindAllString(out, -1)
	slices.Sort(found)
	assert.Len(t, found, len(modelNames), out)
	return strings.Join(found, "\n")
}

// checkOutbox requires that the outbox of the consumer has each message once, in the order of the stream. Nobody reads
// it, so it has all.
func (c *cluster) checkOutbox(t *testing.T, all map[string]ack) {
	t.Helper()
	var seen []sighting
	err := c.nodes[0].eventually(checkLimit, func() (err error) {
		seen, err = c.readOutbox()
		if err == nil && len(seen) < len(all) {
			err = fmt.Errorf("the outbox has %d of %d messages", len(seen), len(all))
		}
		return err
	})
	if err != nil {
		c.tellOutbox(t, seen)
	}
	require.NoError(t, err)
	for i := range seen[:max(0, len(seen)-1)] {
		if seen[i].seq >= seen[i+1].seq {
			assert.Less(t, seen[i].seq, seen[i+1].seq, "sequences in the outbox")
			break
		}
	}
	lost, doubled, _ := compare(all, seen)
	assert.Empty(t, lost, "not in the outbox")
	assert.Empty(t, doubled, "twice in the outbox")
}

// tellOutbox logs the state of the outbox at its leader, and where the messages that were seen there leave out sequences
// of the stream: some are of other events.
func (c *cluster) tellOutbox(t *testing.T, seen []sighting) {
	t.Helper()
	err := c.connect(func(_ *nats.Conn, js jetstream.JetStream) error {
		st, err := js.Stream(c.ctx, "PAGESTREAM_OUT_"+outboxName)
		if err != nil {
			return err
		}
		b, err := json.Marshal(st.CachedInfo())
		t.Logf("outbox: %s", b)
		return err
	})
	var gaps strings.Builder
	before := uint64(0)
	for _, m := range seen {
		if m.seq > before+20 {
			fmt.Fprintf(&gaps, "%d-%d ", before+1, m.seq-1)
		}
		before = m.seq
	}
	t.Logf("outbox: error %v; not there: %s; the last is %d", err, gaps.String(), before)
}

// readiness is what GET /readyz answered over time.
type readiness struct {
	*site

	mu   sync.Mutex
	seen []observed
}

// observed is the answer at a time, from which on it was the same until the next.
type observed struct {
	at    time.Time
	ready bool
	why   string // it is not
}

// run asks until stop is closed.
func (r *readiness) run(stop <-chan struct{}) {
	for {
		at, why := time.Now(), r.notReady()
		ready := why == ""
		r.mu.Lock()
		if n := len(r.seen); n == 0 || r.seen[n-1].ready != ready {
			if !ready {
				at = time.Now() // when it was known
			}
			r.seen = append(r.seen, observed{at, ready, why})
		} else {
			r.seen[n-1].why = why // the last reason
		}
		r.mu.Unlock()
		select {
		case <-stop:
			return
		case <-time.After(4 * every):
		}
	}
}

// change returns when the answer was next what it was not, after a time.
func (r *readiness) change(ready bool, after time.Time) (time.Time, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.seen {
		if o.ready == ready && o.at.After(after) {
			return o.at, true
		}
	}
	return time.Time{}, false
}

// told returns what was answered since a time.
func (r *readiness) told(since time.Time) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out strings.Builder
	for _, o := range r.seen {
		if o.at.After(since) {
			fmt.Fprintf(&out, "%s: ready %v %s; ", o.at.Sub(since), o.ready, o.why)
		}
	}
	return out.String()
}

// now returns the last answer.
func (r *readiness) now() observed {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.seen) == 0 {
		return observed{}
	}
	return r.seen[len(r.seen)-1]
}

// timing is how long a node could not take events around a fault, and how readiness followed.
type timing struct {
	outage   time.Duration // from the fault to the next 200, 0 if no POST was refused
	down, up time.Duration // how much later than POSTs readiness changed; down is 0 if it did before them
}

// times waits until both nodes are ready again, measures, and requires that the outage was no longer than a limit,
// and that readiness followed within a second. It adds what it measured to the row.
func (c *cluster) times(t *testing.T, began time.Time, limit time.Duration) {
	t.Helper()
	for i, s := range c.nodes {
		var at timing
		require.NoError(t, s.eventually(startLimit, func() error {
			refused, stored := s.load.gap(began)
			if stored.IsZero() {
				return errors.New("no POST is answered with 200 after the fault")
			}
			if last := c.watches[i].now(); !last.ready || time.Since(stored) < readyLimit {
				return errors.New("it is not ready")
			}
			at = timing{}
			if refused.IsZero() {
				return nil
			}
			at.outage = stored.Sub(began)
			if down, ok := c.watches[i].change(false, began); ok {
				at.down = max(0, down.Sub(refused))
			} else if stored.Sub(refused) > readyLimit {
				at.down = stored.Sub(refused)
			}
			if up := c.watches[i].now().at; up.After(stored) {
				at.up = up.Sub(stored)
			}
			return nil
		}))
		c.outages = append(c.outages, at)
		if at.up > readyLimit {
			t.Logf("node %d: %s", i+1, c.watches[i].told(began))
		}
		t.Logf("node %d: 200 after %s, not ready %s and ready %s after POSTs", i+1, at.outage, at.down, at.up)
		assert.LessOrEqual(t, at.outage, limit, "until POSTs are answered with 200 again")
		assert.LessOrEqual(t, at.down, readyLimit, "until readyz says that POSTs are refused")
		assert.LessOrEqual(t, at.up, readyLimit, "until readyz says that POSTs are answered with 200 again")
	}
}

// memberKilled kills each server in turn, whether it leads or not.
func memberKilled(t *testing.T, f *trial) {
	c := f.runningCluster(t, false)
	for round := range f.rounds {
		m := c.members[round%copies]
		c.harm(t, electionLimit, m.kill, func() { c.start(t, m) })
	}
}

// harm makes a fault under load, waits until POSTs are answered with 200 again, repairs what was harmed and checks
// everything.
func (c *cluster) harm(t *testing.T, limit time.Duration, fault, repair func()) {
	t.Helper()
	c.awaitAcks(t, 100+rand.IntN(300))
	c.replicated(t)
	began := time.Now()
	fault()
	c.fault(t, began)
	c.recovers(t, startLimit)
	c.times(t, began, limit)
	repair()
	c.check(t)
	c.done++
}

// leaderKilled kills the leader of the stream, and starts it again when there is another one.
func leaderKilled(t *testing.T, f *trial) {
	c := f.runningCluster(t, false)
	for range f.rounds {
		c.replicated(t)
		m := c.leader(t)
		c.harm(t, electionLimit, m.kill, func() { c.start(t, m) })
	}
}

// steppedDown asks the leader of the stream to hand over.
func steppedDown(t *testing.T, f *trial) {
	c := f.runningCluster(t, false)
	for range f.rounds {
		c.harm(t, stepDownLimit, func() {
			require.NoError(t, c.connect(func(nc *nats.Conn, _ jetstream.JetStream) error {
				_, err := nc.Request("$JS.API.STREAM.LEADER.STEPDOWN.PAGESTREAM", nil, 5*time.Second)
				return err
			}))
		}, func() {})
	}
}

// leaderCutOff cuts the leader off: from everything, or in every second round from the other servers only, so that
// nodes stay connected to it.
func leaderCutOff(t *testing.T, f *trial) {
	f.cutOff(t, electionLimit, func(c *cluster) *member { return c.leader(t) })
}

// followerCutOff does the same with a server that does not lead.
func followerCutOff(t *testing.T, f *trial) {
	f.cutOff(t, electionLimit, func(c *cluster) *member { return c.follower(t) })
}

func (f *trial) cutOff(t *testing.T, limit time.Duration, choose func(*cluster) *member) {
	c := f.runningCluster(t, false)
	for round := range f.rounds {
		c.replicated(t)
		m := choose(c)
		if round%2 == 0 {
			c.harm(t, limit, func() { m.cutOff(t) }, func() { m.connected(t) })
		} else {
			c.harm(t, limit, func() { c.apart(t, m, "add") }, func() { c.apart(t, m, "del") })
		}
	}
	c.modelsStay(t)
}

// modelsStay requires that no node has thrown a read model away since it was started.
func (c *cluster) modelsStay(t *testing.T) {
	t.Helper()
	for i, s := range c.nodes {
		text, err := os.ReadFile(s.log())
		require.NoError(t, err)
		again := strings.Count(string(text), "read model starts again") + strings.Count(string(text), "is built again")
		assert.Equal(t, len(modelNames), again, "node %d builds read models, each once at its first start", i+1)
	}
}

// slow makes the loads send less.
func (c *cluster) slow(t *testing.T) {
	t.Helper()
	for _, s := range c.nodes {
		s.load.stop(startLimit)
		s.load.pause = 10 * pause
		s.load.start(t, s.ctx)
	}
}

// memberStopped stops the leader and then a follower for 20 s: the connections to it stay open, and nothing answers.
func memberStopped(t *testing.T, f *trial) {
	c := f.runningCluster(t, false)
	c.slow(t) // so that the outbox, which is bounded, has all
	for round := range f.rounds {
		c.replicated(t)
		m := c.leader(t)
		if round%2 == 1 {
			m = c.follower(t)
		}
		c.harm(t, electionLimit, func() { m.signal(t, syscall.SIGSTOP) }, func() {
			c.stay(20 * time.Second)
			m.signal(t, syscall.SIGCONT)
		})
	}
	c.modelsStay(t)
}

// quorumLost kills two servers, so that no event can be stored, and starts them again after some time.
func quorumLost(t *testing.T, f *trial) {
	c := f.runningCluster(t, false)
	for range f.rounds {
		c.replicated(t)
		leader := c.leader(t)
		var others []*member
		for _, m := range c.members {
			if m != leader {
				others = append(others, m)
			}
		}
		rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
		down := others
		if c.done%2 == 1 {
			down = []*member{leader, others[0]}
		}
		c.outage(t, func() {
			for _, m := range down {
				m.kill()
			}
		}, func() {
			for _, m := range down {
				c.start(t, m)
			}
		})
	}
}

// allKilled kills all servers at once, and starts them again.
func allKilled(t *testing.T, f *trial) {
	c := f.runningCluster(t, false)
	for range f.rounds {
		c.outage(t, c.killAll, func() { c.startAll(t) })
	}
}

// outage makes a fault after which nothing can be stored until it is repaired, which is done after some seconds. POSTs
// must be refused and readiness say so. Then everything is checked.
func (c *cluster) outage(t *testing.T, fault, repair func()) {
	t.Helper()
	c.awaitAcks(t, 100+rand.IntN(300))
	began := time.Now()
	fault()
	require.NoError(t, c.nodes[0].eventually(startLimit, func() error {
		for _, s := range c.nodes {
			if s.load.lastFailure().Before(began) {
				return errors.New("every POST is answered with 200")
			}
		}
		return nil
	}))
	for _, s := range c.nodes {
		require.NoError(t, s.eventually(readyLimit, s.readiness(false)), "readyz while POSTs are refused")
	}
	c.stay(8 * time.Second)
	repaired := time.Now()
	repair()
	c.fault(t, began)
	c.recovers(t, startLimit)
	c.times(t, began, repaired.Add(2*electionLimit).Sub(began))
	c.check(t)
	c.done++
}

// nodeKilled kills one of the nodes; the other one goes on.
func nodeKilled(t *testing.T, f *trial) {
	c := f.runningCluster(t, false)
	for round := range f.rounds {
		s, other := c.nodes[round%2], c.nodes[1-round%2]
		c.awaitAcks(t, 100+rand.IntN(300))
		began := time.Now()
		s.kill()
		other.awaitAcks(t, 200)
		s.fault(t, began)
		s.start(t)
		c.fault(t, began)
		c.recovers(t, startLimit)
		c.check(t)
		c.done++
	}
	c.modelsStay(t)
}

// allPowerCut takes the disks of all servers away at once, as a power cut of their rack does, and starts them on what
// had reached the disks.
func allPowerCut(t *testing.T, f *trial) {
	c := f.runningCluster(t, true)
	uncertain := 0
	for range f.rounds {
		c.awaitAcks(t, 100+rand.IntN(1000))
		began := time.Now()
		for _, m := range c.members {
			require.NoError(t, m.disk.cut())
		}
		cut := time.Now()
		c.killAll()
		for _, s := range c.nodes {
			s.load.stop(0)
			// See takeDisk.
			uncertain += s.load.sendAgain(func(p *post) bool { return p.acked.After(began) && p.sent.Before(cut) })
		}
		for _, m := range c.members {
			require.NoError(t, m.disk.unmount())
			require.NoError(t, m.disk.mount())
		}
		c.startAll(t)
		for _, s := range c.nodes {
			s.load.start(t, s.ctx)
		}
		c.fault(t, began)
		c.recovers(t, startLimit)
		c.check(t)
		c.done++
	}
	c.tell("%d answered while the ioctl ran were sent again", uncertain)
}

// memberRolledBack restores an older copy of a server's files, which must get from the others what it lacks.
func memberRolledBack(t *testing.T, f *trial) {
	c := f.runningCluster(t, false)
	for range f.rounds {
		c.awaitAcks(t, 300)
		c.replicated(t)
		m := c.leader(t)
		if c.done%2 == 1 {
			m = c.follower(t)
		}
		c.copyFiles(t, m)
		c.awaitAcks(t, 300)
		c.harm(t, electionLimit, func() {
			m.kill()
			c.restoreFiles(t, m)
			c.start(t, m)
		}, func() {})
	}
	c.modelsStay(t)
}

// copyFiles stops a server to copy its files, and starts it again.
func (c *cluster) copyFiles(t *testing.T, m *member) {
	t.Helper()
	m.kill()
	require.NoError(t, os.RemoveAll(m.dir+".saved"))
	require.NoError(t, os.CopyFS(m.dir+".saved", os.DirFS(m.dir)))
	c.start(t, m)
}

func (c *cluster) restoreFiles(t *testing.T, m *member) {
	t.Helper()
	require.NoError(t, os.RemoveAll(m.dir))
	require.NoError(t, os.Rename(m.dir+".saved", m.dir))
}

// allRolledBack restores an older copy of all servers' files below newer read models. What was acknowledged since the
// copy is sent again and must be stored.
func allRolledBack(t *testing.T, f *trial) {
	c := f.runningCluster(t, false)
	c.slow(t) // so that the loads remember all that they have to send again
	for range f.rounds {
		c.awaitAcks(t, 500)
		for _, s := range c.nodes {
			s.pause(t)
		}
		c.replicated(t)
		c.killAll()
		for _, m := range c.members {
			c.copyFiles(t, m)
		}
		copied := time.Now()
		for _, s := range c.nodes {
			s.load.start(t, s.ctx)
		}
		c.awaitAcks(t, 300)
		for _, s := range c.nodes {
			s.pause(t)
			s.awaitModels(t)
		}
		c.killAll()
		began := time.Now()
		for _, m := range c.members {
			c.restoreFiles(t, m)
		}
		again := 0
		for _, s := range c.nodes {
			again += s.load.sendAgain(func(p *post) bool { return p.acked.After(copied) })
		}
		c.tell("%d acknowledged after the copy were sent again", again)
		c.startAll(t)
		for _, s := range c.nodes {
			s.load.start(t, s.ctx)
		}
		c.fault(t, began)
		c.recovers(t, startLimit)
		for _, s := range c.nodes {
			require.NoError(t, s.eventually(checkLimit, s.load.sentAgain), "what was acknowledged since the copy is stored")
		}
		c.check(t)
		c.done++
	}
}

// readOutbox returns the messages of the outbox, in its order, from the server that leads it.
func (c *cluster) readOutbox() (out []sighting, err error) {
	err = c.connect(func(nc *nats.Conn, js jetstream.JetStream) error {
		name := "PAGESTREAM_OUT_" + outboxName
		st, err := js.Stream(c.ctx, name)
		if err != nil {
			return err
		}
		for at, last := uint64(0), st.CachedInfo().State.LastSeq; at < last; {
			var answer struct {
				Message *struct {
					Subject string `json:"subject"`
					Seq     uint64 `json:"seq"`
					Headers []byte `json:"hdrs"`
					Data    []byte `json:"data"`
				} `json:"message"`
				Error json.RawMessage `json:"error"`
			}
			which := fmt.Appendf(nil, `{"seq":%d,"next_by_subj":"out.>"}`, at+1)
			m, err := nc.Request("$JS.API.STREAM.MSG.GET."+name, which, 5*time.Second)
			if err != nil {
				return err
			}
			if err := json.Unmarshal(m.Data, &answer); err != nil {
				return err
			}
			if answer.Message == nil {
				if strings.Contains(string(answer.Error), "10037") { // nothing follows
					return nil
				}
				return fmt.Errorf("get a message of the outbox: %s", answer.Error)
			}
			at = answer.Message.Seq
			seen, ok, err := sightingOf(answer.Message.Subject, answer.Message.Headers, answer.Message.Data)
			if err != nil {
				return err
			}
			if ok {
				out = append(out, seen)
			}
		}
		return nil
	})
	return out, err
}

// sightingOf returns the message of an event in an outbox; false if it is another event.
func sightingOf(subject string, headers, data []byte) (out sighting, ok bool, err error) {
	if !strings.HasSuffix(subject, ".message.received") {
		return out, false, nil
	}
	var event struct {
		Message struct {
			MID string `json:"mid"`
		} `json:"message"`
	}
	if err := json.Unmarshal(data, &event); err != nil {
		return out, false, fmt.Errorf("decode event: %w", err)
	}
	header, err := nats.DecodeHeadersMsg(headers)
	if err != nil {
		return out, false, fmt.Errorf("decode headers: %w", err)
	}
	out = sighting{mid: event.Message.MID, page: strings.Split(subject, ".")[2], contact: header.Get("ce-subject")}
	out.seq, err = strconv.ParseUint(header.Get("Pagestream-Sequence"), 10, 64)
	return out, true, err
}
