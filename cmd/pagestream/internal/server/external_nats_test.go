package server_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/connect"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/ledgers"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/tokens"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/seal"
	"github.com/pagestream/pagestream/projections/deliveries"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// attacked is a program whose consumers connect to url.
type attacked struct {
	*running
	url string
}

// external is a NATS server that is configured as docs/consumers.md says, with a program that stores its events there.
type external struct {
	attacked
	ns   *natsserver.Server
	port int
	root string // has the server's files
	dir  string // has what nats-config writes
}

// externalConf is the configuration of the server.
const externalConf = `
listen: "127.0.0.1:%d"
max_payload: 33554432
jetstream {store_dir: %q}
accounts {
  PAGESTREAM {
    jetstream: enabled
    users: [{user: pagestream, password: secret}%s]
    include "pagestream/exports.conf"
  }
  include "pagestream/accounts.conf"
}
`

func startExternal(t *testing.T) *external {
	t.Helper()
	return startExternalWith(t, testConfig(t.TempDir()))
}

// startExternalWith starts a server, and a program with a configuration that it changes to use it.
func startExternalWith(t *testing.T, cfg config.Config) *external {
	t.Helper()
	x := &external{root: t.TempDir(), port: natsserver.RANDOM_PORT}
	x.dir = filepath.Join(x.root, "pagestream")
	require.NoError(t, os.Mkdir(x.dir, 0o700))
	for _, name := range []string{"exports.conf", "accounts.conf"} { // while there are no consumers
		require.NoError(t, os.WriteFile(filepath.Join(x.dir, name), nil, 0o600))
	}
	x.write(t, "")
	x.serve(t)
	t.Cleanup(func() { x.ns.Shutdown(); x.ns.WaitForShutdown() })
	cfg.NATS.AcceptLoss = true
	cfg.NATS.URL = config.Servers(strings.Replace(x.ns.ClientURL(), "nats://", "nats://pagestream:secret@", 1))
	cfg.Streams.Window = 100 * time.Millisecond // else an event that is stored again soon is a duplicate
	x.attacked = attacked{start(t, cfg), x.ns.ClientURL()}
	return x
}

// serve starts the server with its configuration.
func (x *external) serve(t *testing.T) {
	t.Helper()
	opts, err := natsserver.ProcessConfigFile(filepath.Join(x.root, "nats.conf"))
	require.NoError(t, err)
	opts.NoSigs, opts.NoLog = true, true
	x.ns, err = natsserver.NewServer(opts)
	require.NoError(t, err)
	x.ns.Start()
	require.True(t, x.ns.ReadyForConnections(streamstest.Limit))
}

// write writes the server's configuration, with another user of the account of pagestream.
func (x *external) write(t *testing.T, user string) {
	t.Helper()
	text := fmt.Appendf(nil, externalConf, x.port, filepath.Join(x.root, "store"), user)
	require.NoError(t, os.WriteFile(filepath.Join(x.root, "nats.conf"), text, 0o600))
}

// add adds a consumer on the command line.
func (x attacked) add(t *testing.T, args ...string) consumers.Added {
	t.Helper()
	code, out, stderr := x.command(t, append([]string{"--json", "consumers", "add"}, args...)...)
	require.Equal(t, cli.ExitOK, code, stderr)
	var a consumers.Added
	require.NoError(t, json.Unmarshal([]byte(out), &a))
	return a
}

// configure writes the consumers' accounts and reloads the server.
func (x *external) configure(t *testing.T) {
	t.Helper()
	var out string
	streamstest.Eventually(t, streamstest.Limit, func() error { // the program may have lost the server a moment ago
		code, stdout, stderr := x.command(t, "consumers", "nats-config", x.dir)
		if out = stdout; code != cli.ExitOK {
			return errors.New(stderr)
		}
		return nil
	})
	assert.Contains(t, out, `include "pagestream/exports.conf"`)
	require.NoError(t, x.ns.Reload())
	require.NoError(t, x.ns.Reload()) // the server makes the imports of a new account with the second
}

// login connects with a seed.
func (x attacked) login(t *testing.T, seed string) (*nats.Conn, error) {
	t.Helper()
	pair, err := nkeys.FromSeed([]byte(seed))
	require.NoError(t, err)
	public, err := pair.PublicKey()
	require.NoError(t, err)
	nc, err := nats.Connect(x.url, nats.Nkey(public, pair.Sign), nats.CustomInboxPrefix("_INBOX.mine"),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err == nil {
		t.Cleanup(nc.Close)
	}
	return nc, err
}

// send delivers messages of pages 700 and 800.
func (x attacked) send(t *testing.T, n int) {
	t.Helper()
	for range n {
		for _, page := range []string{"700", "800"} {
			body := message(page, "31", fmt.Sprint("m_", page, time.Now().UnixNano()), "x", 1790000000000)
			require.Equal(t, http.StatusOK, post(t, x.PublicAddr(), body))
		}
	}
}

// fetch reads and acknowledges up to n messages as a standard client does, and counts them by the page of
// the event. It fails if one is not an event or has the id of another.
func fetch(t *testing.T, nc *nats.Conn, a consumers.Added, n int) map[string]int {
	t.Helper()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	c, err := js.Consumer(t.Context(), a.Stream, a.Durable)
	require.NoError(t, err)
	batch, err := c.Fetch(n, jetstream.FetchMaxWait(5*time.Second))
	require.NoError(t, err)
	pages, ids := map[string]int{}, map[string]bool{}
	for m := range batch.Messages() {
		e, err := streams.Decode(m.Subject(), m.Headers(), m.Data(), 1, time.Now())
		require.NoError(t, err)
		require.False(t, ids[e.ID], "event %s is there twice", e.ID)
		ids[e.ID] = true
		pages[string(e.Page)]++
		require.NoError(t, m.DoubleAck(t.Context()))
	}
	require.NoError(t, batch.Error())
	return pages
}

// ledgers returns the keys of the bucket of ledgers, and whose counts each has.
func (x attacked) ledgers(t *testing.T) (out string) {
	t.Helper()
	kv, err := x.JS().KeyValue(t.Context(), strings.TrimPrefix(ledgers.Stream, "KV_"))
	require.NoError(t, err)
	keys, err := kv.ListKeys(t.Context())
	require.NoError(t, err)
	for key := range keys.Keys() {
		entry, err := kv.Get(t.Context(), key)
		require.NoError(t, err)
		var p deliveries.Published
		require.NoError(t, json.Unmarshal(entry.Value(), &p))
		out += key + " " + p.Ledger + " " + p.Node + "\n"
	}
	return out
}

// state returns the first and the last sequence and the size of each stream that keeps its messages when
// they are read, once they don't change any more.
func (x attacked) state(t *testing.T) map[string]string {
	t.Helper()
	var last map[string]string
	for range 100 {
		state := map[string]string{}
		list := x.JS().ListStreams(t.Context())
		for info := range list.Info() {
			state[info.Config.Name] = fmt.Sprint(info.Config.Subjects)
			if info.Config.Name == consumers.Bucket { // the program writes positions there
				state[info.Config.Name] += x.records(t)
			} else if info.Config.Name == ledgers.Stream { // and its counts there
				state[info.Config.Name] += x.ledgers(t)
			} else if s := info.State; info.Config.Retention == jetstream.LimitsPolicy {
				state[info.Config.Name] += fmt.Sprint(s.FirstSeq, s.LastSeq, s.Msgs)
			}
		}
		require.NoError(t, list.Err())
		if assert.ObjectsAreEqual(last, state) {
			return state
		}
		last = state
		time.Sleep(60 * time.Millisecond)
	}
	require.Fail(t, "the streams keep changing")
	return nil
}

// records returns the keys and revisions in the consumers' bucket, without positions.
func (x attacked) records(t *testing.T) string {
	t.Helper()
	kv, err := x.JS().KeyValue(t.Context(), strings.TrimPrefix(consumers.Bucket, "KV_"))
	require.NoError(t, err)
	keys, err := kv.Keys(t.Context())
	require.NoError(t, err)
	slices.Sort(keys)
	var out strings.Builder
	for _, key := range keys {
		if strings.HasSuffix(key, ".position") {
			continue
		}
		entry, err := kv.Get(t.Context(), key)
		require.NoError(t, err)
		fmt.Fprintln(&out, key, entry.Revision())
	}
	return out.String()
}

// TestConsumersOfExternalNATS checks what nats-config writes with a real server: each consumer reads its
// events and stays within its limits, and a consumer that was removed can't connect after the next reload.
func TestConsumersOfExternalNATS(t *testing.T) {
	t.Parallel()
	x := startExternal(t)
	x.send(t, 3)
	crm := x.add(t, "crm", "--pages", "700", "--types", "message.received")
	assert.Empty(t, crm.URL)
	x.configure(t)
	for _, name := range []string{"exports.conf", "accounts.conf"} {
		info, err := os.Stat(filepath.Join(x.dir, name))
		require.NoError(t, err)
		assert.Equal(t, os.FileMode(0o600), info.Mode(), name)
		text, err := os.ReadFile(filepath.Join(x.dir, name))
		require.NoError(t, err)
		assert.NotContains(t, string(text), crm.Seed)
	}
	nc, err := x.login(t, crm.Seed)
	require.NoError(t, err)
	assert.Equal(t, map[string]int{"700": 3}, fetch(t, nc, crm, 3))

	other := x.add(t, "other", "--pages", "800", "--types", "message.received")
	x.configure(t)
	x.send(t, 2)
	assert.Equal(t, map[string]int{"700": 2}, fetch(t, nc, crm, 2), "also after a reload")
	second, err := x.login(t, other.Seed)
	require.NoError(t, err)
	assert.Equal(t, map[string]int{"800": 5}, fetch(t, second, other, 5))

	x.port = x.ns.Addr().(*net.TCPAddr).Port
	x.write(t, "")
	x.ns.Shutdown()
	x.ns.WaitForShutdown()
	x.serve(t)
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if got := post(t, x.PublicAddr(), message("700", "31", "m_restart", "x", 1790000000000)); got != http.StatusOK {
			return fmt.Errorf("answered %d", got)
		}
		return nil
	})
	require.Eventually(t, nc.IsConnected, streamstest.Limit, 10*time.Millisecond)
	assert.Equal(t, map[string]int{"700": 1}, fetch(t, nc, crm, 1), "also after a restart")
	require.Eventually(t, second.IsConnected, streamstest.Limit, 10*time.Millisecond)

	for range 7 {
		_, err := x.login(t, crm.Seed)
		require.NoError(t, err)
	}
	_, err = x.login(t, crm.Seed)
	require.ErrorIs(t, err, nats.ErrMaxAccountConnectionsExceeded)
	require.ErrorIs(t, nc.Publish(crm.Publish[1], make([]byte, 64<<10)), nats.ErrMaxPayload)

	code, _, stderr := x.command(t, "consumers", "remove", "other")
	require.Equal(t, cli.ExitOK, code, stderr)
	x.configure(t)
	_, err = x.login(t, other.Seed)
	require.ErrorIs(t, err, nats.ErrAuthorization)
	assert.Eventually(t, func() bool { return !second.IsConnected() }, streamstest.Limit, 10*time.Millisecond)

	code, _, stderr = x.command(t, "consumers", "nats-config", x.dir, "--account", `P"} evil {`)
	assert.Equal(t, cli.ExitFailed, code)
	assert.Contains(t, stderr, "account")
}

// TestNATSCredentialsOpenNoPageToken reads every stream and bucket with the credentials of the process, and
// writes what it likes: no page token is there but sealed, what is there opens no sealed token, one that is
// moved to another page is refused, and an administrator's token that it makes shows no page token either.
func TestNATSCredentialsOpenNoPageToken(t *testing.T) {
	t.Parallel()
	g, cfg := newFakeMeta(t, 2)
	x := startExternalWith(t, cfg)
	var plain []string
	for _, page := range []domain.PageID{"7000", "7001"} {
		x.connectPage(t, g, page)
		access, err := x.Tokens().Access(t.Context(), page)
		require.NoError(t, err)
		plain = append(plain, access.Token, "of-page-"+string(page))
	}
	require.NotEqual(t, plain[0], plain[2])
	code, _, stderr := x.command(t, "tokens", "add", "ops", "--scope", "admin") // its hash might be a key
	require.Equal(t, cli.ExitOK, code, stderr)
	showsToken := func(b []byte) bool {
		for _, text := range plain {
			for _, form := range []string{
				text, hex.EncodeToString([]byte(text)), base64.RawStdEncoding.EncodeToString([]byte(text)),
				base64.RawURLEncoding.EncodeToString([]byte(text)),
			} {
				if bytes.Contains(b, []byte(form)) {
					return true
				}
			}
		}
		return false
	}

	nc, err := nats.Connect(x.url, nats.UserInfo("pagestream", "secret"))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	var read int
	secrets := map[string]map[string]any{}                 // by page
	keys := map[string]bool{strings.Repeat("0", 64): true} // what might be a key, in hex
	maybeKey := regexp.MustCompile(`[0-9a-f]{64}`)
	names := js.StreamNames(t.Context())
	for name := range names.Name() {
		_, err := streams.ReadRaw(t.Context(), js, streams.ReadOptions{Stream: name}, func(m streams.Raw) error {
			read++
			all := fmt.Append(nil, m.Subject, m.Header, string(m.Data))
			assert.False(t, showsToken(all), "%s has a token", m.Subject)
			for _, key := range maybeKey.FindAllString(string(all), -1) {
				keys[key] = true
			}
			if hasSealed(all) {
				require.Equal(t, connect.BucketOf(streams.Name), name)
				var row map[string]any
				require.NoError(t, json.Unmarshal(m.Data, &row))
				secrets[row["page"].(string)] = row
			}
			return nil
		})
		require.NoError(t, err, name)
	}
	require.NoError(t, names.Err())
	require.Len(t, secrets, 2, "the attack reads no secrets")
	require.Greater(t, read, 6)
	require.Greater(t, len(keys), 1)

	aads := map[string]func(domain.PageID) []byte{"token": connect.TokenAAD, "verify_token": connect.VerifyTokenAAD}
	file := filepath.Join(t.TempDir(), "guess.json")
	for page, row := range secrets {
		for field, aad := range aads {
			sealed, aad := row[field].(string), aad(domain.PageID(page))
			text, err := x.Keys().Open(sealed, aad)
			require.NoError(t, err)
			require.True(t, showsToken(text), "this is not the page's token")
			id, err := seal.KeyID(sealed)
			require.NoError(t, err)
			for key := range keys {
				raw, err := hex.DecodeString(key)
				require.NoError(t, err)
				guess := fmt.Sprintf(`{"version":1,"primary":%q,"keys":[{"id":%q,"key":%q}]}`,
					id, id, base64.StdEncoding.EncodeToString(raw))
				require.NoError(t, os.WriteFile(file, []byte(guess), 0o600))
				ring, err := seal.Load(file)
				require.NoError(t, err)
				_, err = ring.Open(sealed, aad)
				require.ErrorIs(t, err, seal.ErrNotAuthentic)
			}
		}
	}

	// The token of one page in the place of another's.
	moved := maps.Clone(secrets["7000"])
	moved["page"], moved["ref"] = "7001", "moved"
	data, err := json.Marshal(moved)
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), "$KV."+strings.TrimPrefix(connect.BucketOf(streams.Name), "KV_")+".7001.moved.1", data)
	require.NoError(t, err)
	secret, err := x.Secrets().Get(t.Context(), "7001", "moved")
	require.NoError(t, err)
	_, err = x.Keys().Open(secret.Token, connect.TokenAAD("7001"))
	require.ErrorIs(t, err, seal.ErrNotAuthentic)

	// A token of the private listener that the process did not make.
	const forged = tokens.Prefix + "forged-by-who-has-the-credentials"
	hash := sha256.Sum256([]byte(forged))
	kv, err := js.KeyValue(t.Context(), strings.TrimPrefix(tokens.Stream, "KV_"))
	require.NoError(t, err)
	_, err = kv.PutString(t.Context(), "evil",
		fmt.Sprintf(`{"name":"evil","scope":"admin","sha256":%q}`, hex.EncodeToString(hash[:])))
	require.NoError(t, err)
	get := func(path string) (int, []byte) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, x.base()+path, nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Bearer "+forged)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, b
	}
	require.Eventually(t, func() bool { code, _ := get("/api/v1/pages"); return code == http.StatusOK },
		streamstest.Limit, 10*time.Millisecond, "the attack proves nothing: the token is not valid")
	for _, path := range []string{
		"/api/v1/pages", "/api/v1/pages/7000", "/api/v1/pages/7001", "/api/v1/events", "/api/v1/pages/7000/subscription",
		"/api/v1/keys", "/api/v1/tokens", "/api/v1/history", "/api/v1/status", "/metrics",
	} {
		code, body := get(path)
		assert.Equal(t, http.StatusOK, code, path)
		assert.False(t, showsToken(body), path)
		assert.False(t, hasSealed(body), path)
	}
}

// TestExternalConsumerForgesNothing attacks the streams with a consumer's seed. The same attacks are made
// by a user with permissions in the account of pagestream, as earlier versions proposed: there they forge
// events, so they are real.
func TestExternalConsumerForgesNothing(t *testing.T) {
	t.Parallel()
	x := startExternal(t)
	x.send(t, 1)
	crm := x.add(t, "crm", "--pages", "700", "--types", "message.received")
	old := x.add(t, "old", "--pages", "700", "--types", "message.received")
	pair, err := nkeys.CreateUser()
	require.NoError(t, err)
	seed, err := pair.Seed()
	require.NoError(t, err)
	public, err := pair.PublicKey()
	require.NoError(t, err)
	x.write(t, fmt.Sprintf(`, {nkey: %s, permissions: {publish: [%q, %q, %q], subscribe: "_INBOX.>"}}`,
		public, old.Publish[0], old.Publish[1], old.Publish[2]))
	x.configure(t)

	x.assertForgesNothing(t, crm)
	// A purge worked as well until NATS 2.15.3, which takes no request of its API as a reply.
	assert.Subset(t, x.attack(t, string(seed), old), []string{
		"the state as reply", "a refusal as reply", "an acknowledgement with a reply", "answers to others",
	}, "the attacks prove nothing: they don't work where they should")
}

// TestConsumerForgesNothing makes the same attacks on the listener of the embedded server.
func TestConsumerForgesNothing(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t.TempDir())
	cfg.NATS.Listen, cfg.Streams.Window = "127.0.0.1:0", 100*time.Millisecond
	x := attacked{running: start(t, cfg)}
	x.send(t, 1)
	crm := x.add(t, "crm", "--pages", "700", "--types", "message.received")
	x.url = crm.URL
	x.assertForgesNothing(t, crm)
}

// assertForgesNothing attacks with a consumer's seed, and then reads all events of the consumer.
func (x attacked) assertForgesNothing(t *testing.T, a consumers.Added) {
	t.Helper()
	assert.Empty(t, x.attack(t, a.Seed, a))
	nc, err := x.login(t, a.Seed)
	require.NoError(t, err)
	rest := fetch(t, nc, a, 200)
	assert.Positive(t, rest["700"], "the consumer does not read any more")
	assert.Len(t, rest, 1)
}

// attack tries to change streams, or to read what is not the consumer's, with the seed of a user that may
// use the consumer. It returns the names of the attacks that succeeded.
func (x attacked) attack(t *testing.T, seed string, a consumers.Added) (succeeded []string) {
	t.Helper()
	nc, err := x.login(t, seed)
	require.NoError(t, err)
	inbox, err := nc.SubscribeSync("_INBOX.>") // also the answers to others, if they can be seen
	require.NoError(t, err)
	next, info := a.Publish[0], a.Publish[1]
	var others []string
	// ack returns the subject for acknowledging one more message.
	ack := func() string {
		require.NoError(t, nc.PublishRequest(next, "_INBOX.mine.bait", []byte(`{"batch":1,"expires":5000000000}`)))
		for {
			m, err := inbox.NextMsg(5 * time.Second)
			require.NoError(t, err)
			if !strings.HasPrefix(m.Subject, "_INBOX.mine.") && !strings.HasPrefix(m.Reply, "$JS.ACK.") {
				others = append(others, m.Subject)
			}
			if strings.HasPrefix(m.Reply, strings.TrimSuffix(a.Publish[2], ">")) {
				return m.Reply
			}
		}
	}
	const (
		forged = `{"forged":true}`
		one    = `{"batch":1,"no_wait":true}`
	)
	publish := func(subject, reply, body string, header ...string) {
		m := &nats.Msg{Subject: subject, Reply: reply, Data: []byte(body), Header: nats.Header{}}
		for i := 0; i < len(header); i += 2 {
			m.Header.Set(header[i], header[i+1])
		}
		require.NoError(t, nc.PublishMsg(m))
	}
	st, err := x.JS().Stream(t.Context(), a.Stream)
	require.NoError(t, err)
	own := st.CachedInfo().Config.Subjects[0]
	for _, to := range []string{
		"pagestream.700.message.received", strings.Replace(own, ">", "700.message.received", 1),
	} {
		deliver := fmt.Sprintf(`{"stream_name":%q,"config":{"deliver_subject":%q,"ack_policy":"none"}}`, a.Stream, to)
		for name, try := range map[string]func(){
			"an event":                        func() { publish(to, "", forged) },
			"a message as reply":              func() { publish(next, to, one) },
			"the state as reply":              func() { publish(info, to, "") },
			"an acknowledgement with a reply": func() { publish(ack(), to, "+ACK") },
			"the next message as reply":       func() { publish(ack(), to, "+NXT "+one) },
			"a refusal as reply":              func() { publish(next, to, "{") },
			"a request in another's name": func() {
				publish(next, to, one, "Nats-Msg-Id", "forged", "Nats-Expected-Stream", streams.Name)
			},
			"a trace": func() { publish(next, "_INBOX.mine.x", one, "Nats-Trace-Dest", to) },
			"a trace of a lost message": func() {
				publish(strings.Replace(a.Publish[2], ">", "x", 1), "", forged,
					"Nats-Trace-Dest", to, "Nats-Trace-Only", "true")
			},
			"a consumer that pushes": func() {
				publish("$JS.API.CONSUMER.CREATE."+a.Stream, "_INBOX.mine.x", deliver)
				publish("$JS.API.CONSUMER.CREATE."+streams.Name+".mine", "_INBOX.mine.x", deliver)
				publish("$JS.API.CONSUMER.DURABLE.CREATE."+a.Stream+".mine", to, deliver)
			},
			"a stream that copies": func() {
				publish("$JS.API.STREAM.CREATE.MINE", to, `{"name":"MINE","sources":[{"name":"PAGESTREAM"}]}`)
				publish("$JS.API.STREAM.UPDATE."+streams.Name, to, `{"name":"PAGESTREAM","subjects":["x"]}`)
			},
			"a purge": func() {
				for _, s := range []string{streams.Name, a.Stream} {
					publish("$JS.API.STREAM.PURGE."+s, to, "")
					publish("$JS.API.STREAM.MSG.DELETE."+s, to, `{"seq":1}`)
					publish("$JS.API.STREAM.DELETE."+s, to, "")
				}
				publish(next, "$JS.API.STREAM.PURGE."+streams.Name, one)
				publish(ack(), "$JS.API.STREAM.PURGE."+streams.Name, "+ACK")
			},
			"an event that is read": func() {
				publish("$JS.API.DIRECT.GET."+streams.Name, to, `{"seq":1}`)
				publish("$JS.API.STREAM.MSG.GET."+streams.Name, to, `{"seq":1}`)
				publish("$JS.API.CONSUMER.MSG.NEXT."+streams.Name+".consumer-other", to, one)
			},
			"a secret": func() {
				publish("$KV.PAGESTREAM_SECRETS.700", "", forged)
				publish(next, "$KV.PAGESTREAM_SECRETS.700", one)
			},
			"the shadowed import": func() {
				publish("$JS.API.INFO", to, "")
				publish("_nobody.pagestream-consumer-"+a.Name, to, forged)
			},
			"a listener": func() {
				for _, subject := range []string{"$JS.API.>", "$JS.ACK.>", ">", to, "_R_.>", "_nobody.>"} {
					sub, err := nc.SubscribeSync(subject)
					require.NoError(t, err)
					t.Cleanup(func() { _ = sub.Unsubscribe() })
				}
				publish(next, to, one)
			},
		} {
			x.send(t, 2)
			before := x.state(t)
			try()
			require.NoError(t, nc.FlushTimeout(streamstest.Limit))
			if after := x.state(t); !assert.ObjectsAreEqual(before, after) {
				succeeded = append(succeeded, name)
				t.Logf("%s: %v, then %v", name, before, after)
			}
		}
	}
	if len(others) > 0 {
		succeeded = append(succeeded, "answers to others")
	}
	return succeeded
}
