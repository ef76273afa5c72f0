package streams_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cloudjetstream "github.com/cloudevents/sdk-go/protocol/nats_jetstream/v2"
	cloudevents "github.com/cloudevents/sdk-go/v2"
	cloudclient "github.com/cloudevents/sdk-go/v2/client"
	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/streams"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// The tests of this file read pagestream's events with other software, from a standalone nats-server.
// TestStockSubscriberReadsEveryType does the same with watermill.

// startServer starts a server on a random port and stores the events in its stream. It returns a connection and
// the messages that should be stored.
func startServer(t *testing.T, events []domain.Event) (nc *nats.Conn, want []*nats.Msg) {
	t.Helper()
	ns, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true,
	})
	require.NoError(t, err)
	ns.Start()
	t.Cleanup(func() {
		ns.Shutdown()
		ns.WaitForShutdown()
	})
	require.True(t, ns.ReadyForConnections(streamstest.Limit), "the server is not ready")
	nc, err = nats.Connect(ns.ClientURL())
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	_, err = streams.Ensure(bounded(t), js, streams.Spec{})
	require.NoError(t, err)
	p, err := streams.NewPublisher(js, streams.PublisherOptions{})
	require.NoError(t, err)
	_, err = p.Publish(bounded(t), events)
	require.NoError(t, err)
	require.NoError(t, p.Close(bounded(t)))
	for _, e := range events {
		m, err := streams.Encode(e)
		require.NoError(t, err)
		want = append(want, m)
	}
	return nc, want
}

// oneOfEach returns an event of every type. Some of them have ids that must be escaped in a header, and some have
// no optional fields.
func oneOfEach() []domain.Event {
	var events []domain.Event
	for i, typ := range domain.Types() {
		e := domain.Event{
			ID: fmt.Sprintf("page:100:h:%d", i), Type: typ, Page: "700000000000001", Contact: "31",
			Time: time.Date(2026, 9, 21, 14, 13, 20, 1e6, time.UTC), Standby: i%2 == 0,
			TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
			Data: domain.Data{
				Object: "page", Message: &domain.Message{Text: "<ä>"}, Raw: []byte(`{"a" : "\u00e4", "n":1.50}`),
			},
		}
		if typ == domain.ForeignReceived {
			e.Original, e.OriginalID = domain.MessageReceived, "page:700000000000001:msg:m"
		}
		switch i % 3 {
		case 1:
			e.Page, e.Contact = "a b/ä", "100% <ä>\r\n"
		case 2:
			e.Page, e.Contact, e.Time, e.TraceParent = "", "", time.Time{}, ""
		}
		events = append(events, e)
	}
	return events
}

// TestCloudEventsSDKReadsEveryType checks that the CloudEvents SDK decodes each message as the right CloudEvent, in
// binary mode.
func TestCloudEventsSDKReadsEveryType(t *testing.T) {
	t.Parallel()
	events := oneOfEach()
	nc, messages := startServer(t, events)
	consumer, err := cloudjetstream.NewConsumerFromConn(nc, streams.Name, streams.All, nil,
		[]nats.SubOpt{nats.BindStream(streams.Name), nats.DeliverAll()})
	require.NoError(t, err)
	client, err := cloudevents.NewClient(consumer,
		cloudclient.WithPollGoroutines(1), cloudclient.WithBlockingCallback()) // in order
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	got := make(chan cloudevents.Event, len(events))
	ended := make(chan error, 1)
	go func() { ended <- client.StartReceiver(ctx, func(e cloudevents.Event) { got <- e }) }()
	var received []cloudevents.Event
	for range events {
		select {
		case e := <-got:
			received = append(received, e)
		case err := <-ended:
			require.Fail(t, "the receiver ended", "%v", err)
		case <-ctx.Done():
			require.Len(t, received, len(events), "the others were not received in time")
		}
	}
	cancel()
	require.NoError(t, <-ended)
	for i, want := range events {
		e := received[i]
		require.NoError(t, e.Validate(), want.ID)
		type attributes struct {
			SpecVersion, ID, Type, ContentType string
			Page, Contact                      string // from source and subject
			Time                               time.Time
			Extensions                         map[string]any
			Data                               string
		}
		page, err := url.PathUnescape(strings.TrimPrefix(e.Source(), "/pages/"))
		require.NoError(t, err, "%s: source %q", want.ID, e.Source())
		contact, err := url.PathUnescape(e.Subject())
		require.NoError(t, err, "%s: subject %q", want.ID, e.Subject())
		expected := attributes{
			SpecVersion: "1.0", ID: want.ID, Type: "pagestream." + string(want.Type) + ".v1",
			ContentType: "application/json", Page: string(want.Page), Contact: string(want.Contact),
			Time: want.Time, Data: string(messages[i].Data),
		}
		if want.Page == "" {
			expected.Page = "0"
		}
		extensions := map[string]any{}
		if want.Standby {
			extensions["pagestreamstandby"] = "true"
		}
		if want.Type == domain.ForeignReceived {
			extensions["pagestreamtype"] = "pagestream." + string(want.Original) + ".v1"
			extensions["pagestreamid"] = want.OriginalID
		}
		if len(extensions) > 0 {
			expected.Extensions = extensions
		}
		require.Empty(t, cmp.Diff(expected, attributes{
			e.SpecVersion(), e.ID(), e.Type(), e.DataContentType(), page, contact, e.Time(), e.Extensions(), string(e.Data()),
		}), want.ID)
		var data domain.Data
		err = e.DataAs(&data)
		require.NoError(t, err, want.ID)
		require.Equal(t, "<ä>", data.Message.Text, want.ID)
	}
}

// installLimit bounds the download of the npm packages.
const installLimit = 90 * time.Second

// TestNodeClientReadsEveryType checks that nats.js reads the same subjects, headers and data, from any sequence and
// with a durable consumer.
func TestNodeClientReadsEveryType(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("downloads npm packages")
	}
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed")
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		t.Skip("npm is not installed")
	}
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "interop"))))
	run := func(limit time.Duration, name string, args ...string) ([]byte, error) {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir, cmd.WaitDelay = dir, time.Second
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			err = fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), args[0], err, stderr.Bytes())
		}
		return out, err
	}
	// Without a registry npm must fail at once instead of retrying for minutes.
	install := []string{"ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=0"}
	if _, err := run(installLimit, npm, install...); err != nil {
		t.Skipf("the npm packages can't be installed: %v", err)
	}

	nc, messages := startServer(t, oneOfEach())
	read := func(from, n int, mode, place string) {
		t.Helper()
		out, err := run(streamstest.Limit, node, "consume.mjs", nc.ConnectedUrl(), streams.Name, fmt.Sprint(n), mode, place)
		require.NoError(t, err)
		lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
		require.Len(t, lines, n, mode)
		for i, line := range lines {
			var got struct {
				Seq     int
				Subject string
				Headers nats.Header
				Data    string
			}
			require.NoError(t, json.Unmarshal([]byte(line), &got))
			// Headers of the publication that the server keeps are not part of the event.
			maps.DeleteFunc(got.Headers, func(k string, _ []string) bool {
				return strings.HasPrefix(k, "Nats-") && k != streams.HeaderMsgID
			})
			want := messages[from-1+i]
			assert.Equal(t, from+i, got.Seq, mode)
			assert.Equal(t, want.Subject, got.Subject, mode)
			assert.Equal(t, string(want.Data), got.Data, mode)
			assert.Empty(t, cmp.Diff(want.Header, got.Headers), "%s: headers of %d", mode, got.Seq)
		}
	}
	n := len(messages)
	read(1, n, "ordered", "1")
	read(11, n-10, "ordered", "11")
	read(1, 5, "durable", "node")
	read(6, n-5, "durable", "node") // goes on after the last run
}
