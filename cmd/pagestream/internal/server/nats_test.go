package server_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/server"
	"github.com/pagestream/pagestream/config"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// authority makes a certificate that signs others, and two that it has signed, as PEM files in dir: ca.pem,
// server.pem, client.pem and the keys server.key, client.key.
func authority(t *testing.T, dir string) {
	t.Helper()
	write := func(name, kind string, der []byte) {
		text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
	var ca *x509.Certificate
	var caKey *ecdsa.PrivateKey
	for i, name := range []string{"ca", "server", "client"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		cert := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			IsCA: ca == nil, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		}
		if ca == nil {
			ca, caKey = cert, key
		}
		der, err := x509.CreateCertificate(rand.Reader, cert, ca, &key.PublicKey, caKey)
		require.NoError(t, err)
		write(name+".pem", "CERTIFICATE", der)
		der, err = x509.MarshalECPrivateKey(key)
		require.NoError(t, err)
		write(name+".key", "EC PRIVATE KEY", der)
	}
}

// secured starts a server that wants a client's certificate and a user.
func secured(t *testing.T, dir string, o natsserver.Options) *natsserver.Server {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key"))
	require.NoError(t, err)
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(ca))
	o.TLSConfig = &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert,
	}
	o.TLS, o.TLSVerify = true, true
	return serveNATS(t, o)
}

// serveNATS starts a server on a free port, with JetStream if o has a directory for it.
func serveNATS(t *testing.T, o natsserver.Options) *natsserver.Server {
	t.Helper()
	o.Host, o.Port, o.NoSigs, o.NoLog, o.JetStream = "127.0.0.1", natsserver.RANDOM_PORT, true, true, o.StoreDir != ""
	ns, err := natsserver.NewServer(&o)
	require.NoError(t, err)
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	require.True(t, ns.ReadyForConnections(streamstest.Limit))
	return ns
}

// written writes a configuration file with settings of nats and returns its path.
func written(t *testing.T, dir, nats string) string {
	t.Helper()
	path := filepath.Join(dir, "pagestream.yaml")
	text := fmt.Sprintf("data: {dir: %[1]s/data}\nkeys: {file: %[1]s/keys.json}\n"+
		"http: {public: 127.0.0.1:0, private: 127.0.0.1:0, token_file: %[1]s/admin.token}\n"+
		"apps:\n- {name: main, secrets: [%[2]s], verify_token: %[3]s}\nnats: {%[4]s}\n",
		dir, testSecret, testVerifyToken, nats)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// loaded returns the configuration of a file.
func loaded(t *testing.T, path string) config.Config {
	t.Helper()
	cfg, err := config.Load(config.Options{File: path})
	require.NoError(t, err)
	cfg.Apps[0].GraphURL = "http://127.0.0.1:1"
	return cfg
}

// TestNATSLogins checks each way to log in to a server that wants a certificate: with config check --connect, in
// serve on every connection, and in an offline command.
func TestNATSLogins(t *testing.T) {
	t.Parallel()
	pair, err := nkeys.CreateUser()
	require.NoError(t, err)
	seed, err := pair.Seed()
	require.NoError(t, err)
	public, err := pair.PublicKey()
	require.NoError(t, err)
	for name, c := range map[string]struct {
		server natsserver.Options
		files  map[string]string
		nats   string
	}{
		"nkey": {
			natsserver.Options{Nkeys: []*natsserver.NkeyUser{{Nkey: public}}},
			map[string]string{"user.nk": string(seed) + "\n"},
			"nkey_file: %[1]s/user.nk",
		},
		"password": {
			natsserver.Options{Username: "pagestream", Password: "hunter2 hunter3"},
			map[string]string{"user": "pagestream\n", "password": "hunter2 hunter3\n"},
			"user_file: %[1]s/user, password_file: %[1]s/password",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			authority(t, dir)
			for file, text := range c.files {
				require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600))
			}
			c.server.StoreDir = filepath.Join(dir, "store")
			ns := secured(t, dir, c.server)
			set := fmt.Sprintf("url: 'nats://127.0.0.1:1,%[2]s', name: box-7, accept_loss: true, ca_file: %[1]s/ca.pem, "+
				"client_cert_file: %[1]s/client.pem, client_key_file: %[1]s/client.key, "+c.nats, dir, ns.ClientURL())
			path := written(t, dir, set)

			code, stdout, stderr := run(t, t.Context(), "-c", path, "--json", "config", "check", "--connect")
			require.Equal(t, cli.ExitOK, code, stderr)
			var answer struct{ Servers []server.Reached }
			require.NoError(t, json.Unmarshal([]byte(stdout), &answer))
			require.Len(t, answer.Servers, 2)
			assert.Contains(t, answer.Servers[0].Error, "no servers available")
			got := answer.Servers[1]
			assert.Equal(t, natsserver.VERSION, got.Version)
			assert.Equal(t, int64(1<<20), got.MaxPayload)
			assert.Equal(t, int64(-1), got.Limits[""].MaxStore)
			assert.Contains(t, stderr, "raise its max_payload")
			assert.Contains(t, stderr, "nats://127.0.0.1:1")

			r := start(t, loaded(t, path))
			require.Equal(t, 200, post(t, r.PublicAddr(), message("700", "31", "m_1", "x", 1790000000000)))
			streamstest.Eventually(t, streamstest.Limit, func() error {
				connections, err := ns.Connz(nil)
				require.NoError(t, err)
				var names []string
				for _, c := range connections.Conns {
					names = append(names, c.Name)
				}
				for _, want := range []string{"box-7", "box-7 consumers", "box-7 erase", "box-7 reconcile"} {
					if !strings.Contains("\n"+strings.Join(names, "\n")+"\n", "\n"+want+"\n") {
						return fmt.Errorf("no connection %s in %q", want, names)
					}
				}
				return nil
			})
			r.stop(t)
			code, _, stderr = run(t, t.Context(), "-c", path, "projections", "rebuild", "pages", "--offline")
			require.Equal(t, cli.ExitOK, code, stderr)

			for _, file := range []string{"ca.pem", "client.key", "user.nk", "password"} { // each is read by the check
				bad := filepath.Join(dir, file)
				before, err := os.ReadFile(bad)
				if err != nil {
					continue
				}
				require.NoError(t, os.WriteFile(bad, nil, 0o644))
				require.NoError(t, os.Chmod(bad, 0o644))
				code, _, stderr := run(t, t.Context(), "-c", path, "config", "check")
				assert.Equal(t, cli.ExitFailed, code, file)
				assert.Contains(t, stderr, "nats.", file)
				if file != "ca.pem" {
					assert.Contains(t, stderr, "chmod 600 "+bad)
				}
				require.NoError(t, os.WriteFile(bad, before, 0o600))
				require.NoError(t, os.Chmod(bad, 0o600))
			}
			wrong := strings.Replace(set, "ca_file: "+dir+"/ca.pem", "ca_file: "+dir+"/client.pem", 1)
			code, _, stderr = run(t, t.Context(), "-c", written(t, dir, wrong), "config", "check", "--connect")
			assert.Equal(t, cli.ExitFailed, code)
			assert.Contains(t, stderr, "no server lets pagestream use JetStream")
			assert.NotContains(t, stderr, "hunter2")
			code, _, stderr = run(t, t.Context(), "-c", written(t, dir, set+", creds: "+dir+"/ca.pem"), "config", "check")
			assert.Equal(t, cli.ExitFailed, code)
			assert.Contains(t, stderr, "set one of them")
		})
	}
}

// TestConfigCheckConnectSaysWhatIsMissing checks servers on which pagestream can't run.
func TestConfigCheckConnectSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	plain := serveNATS(t, natsserver.Options{})
	for set, want := range map[string]string{
		"":                              "nats.url: empty",
		"url: " + plain.ClientURL():     "jetstream not enabled",
		"url: 'nats://a:b@127.0.0.1:1'": "nats://hidden@127.0.0.1:1",
	} {
		code, _, stderr := run(t, t.Context(), "-c", written(t, dir, set), "config", "check", "--connect")
		assert.Equal(t, cli.ExitFailed, code, set)
		assert.Contains(t, strings.ToLower(stderr), want, set)
	}
	full := serveNATS(t, natsserver.Options{
		StoreDir: t.TempDir(), MaxPayload: 32 << 20, HTTPHost: "127.0.0.1", HTTPPort: natsserver.RANDOM_PORT,
	})
	path := written(t, dir, "url: "+full.ClientURL()+", replicas: 3, monitor_urls: ['http://"+full.MonitorAddr().String()+
		"', 'http://127.0.0.1:1']")
	code, stdout, stderr := run(t, t.Context(), "-c", path, "config", "check", "--connect")
	require.Equal(t, cli.ExitOK, code, stderr)
	assert.Contains(t, stdout, "messages up to 32 MiB; JetStream limits: 0 B of unlimited, 0 of unlimited streams")
	assert.Contains(t, stderr, "nats.replicas: 3 copies need as many servers")
	assert.Contains(t, stderr, "syncs every 2m0s")
	assert.Contains(t, stderr, "nats.monitor_urls: http://127.0.0.1:1: ")
}

// TestNATSDomain checks that everything is stored in the domain of the configuration, from a leaf node that has
// another one.
func TestNATSDomain(t *testing.T) {
	t.Parallel()
	_, port, err := net.SplitHostPort(streamstest.FreeAddr(t))
	require.NoError(t, err)
	number, err := strconv.Atoi(port)
	require.NoError(t, err)
	hub := serveNATS(t, natsserver.Options{
		ServerName: "hub", StoreDir: t.TempDir(), JetStreamDomain: "hub", MaxPayload: 32 << 20,
		LeafNode: natsserver.LeafNodeOpts{Host: "127.0.0.1", Port: number},
	})
	to, err := url.Parse("nats-leaf://127.0.0.1:" + port)
	require.NoError(t, err)
	leaf := serveNATS(t, natsserver.Options{
		ServerName: "leaf", StoreDir: t.TempDir(), JetStreamDomain: "leaf", MaxPayload: 32 << 20,
		LeafNode: natsserver.LeafNodeOpts{Remotes: []*natsserver.RemoteLeafOpts{{URLs: []*url.URL{to}}}},
	})
	streamstest.Eventually(t, streamstest.Limit, func() error {
		if leaf.NumLeafNodes() != 1 {
			return fmt.Errorf("not connected")
		}
		return nil
	})
	dir := t.TempDir()
	path := written(t, dir, "url: "+leaf.ClientURL()+", domain: hub, accept_loss: true")
	code, _, stderr := run(t, t.Context(), "-c", path, "config", "check", "--connect")
	require.Equal(t, cli.ExitOK, code, stderr)
	r := start(t, loaded(t, path))
	require.Equal(t, 200, post(t, r.PublicAddr(), message("700", "31", "m_1", "x", 1790000000000)))
	r.makeStreams(t)
	code, _, stderr = r.command(t, "erase", "700", "31", "--yes") // needs a reactor
	require.Equal(t, cli.ExitOK, code, stderr)
	code, _, stderr = r.command(t, "backup", filepath.Join(dir, "copy"))
	require.Equal(t, cli.ExitOK, code, stderr)
	r.stop(t)
	of := func(ns *natsserver.Server) (names []string) {
		jsz, err := ns.Jsz(&natsserver.JSzOptions{Streams: true})
		require.NoError(t, err)
		for _, account := range jsz.AccountDetails {
			for _, s := range account.Streams {
				names = append(names, s.Name)
			}
		}
		return names
	}
	assert.Empty(t, of(leaf))
	assert.Contains(t, of(hub), streams.Name)
}
