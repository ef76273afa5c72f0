//go:build linux

package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// checkLimit bounds the time that read models have to reach the end of the stream after a fault.
const checkLimit = 60 * time.Second

// check stops the load and checks everything that was acknowledged so far, from outside. Then the load goes on.
func (s *site) check(t *testing.T) {
	t.Helper()
	s.pause(t)
	s.checkMessages(t, s.load.acked)
	code, out := s.run("audit")
	assert.Zero(t, code, "audit: %s", out)
	s.verify(t)
	s.load.start(t, s.ctx)
}

// checkShortened is check for a stream that lacks events which the server has counted in its ledger. The audit is
// not asked, since it has to say so.
func (s *site) checkShortened(t *testing.T) {
	t.Helper()
	s.pause(t)
	s.checkMessages(t, s.load.acked)
	s.verify(t)
	s.load.start(t, s.ctx)
}

// pause stops the load when each of its POSTs is acknowledged.
func (s *site) pause(t *testing.T) {
	t.Helper()
	stopped := make(chan struct{})
	go func() {
		s.load.stop(startLimit)
		close(stopped)
	}()
	_ = s.eventually(startLimit, func() error {
		select {
		case <-stopped:
			return nil
		default:
			return errors.New("POSTs are not acknowledged")
		}
	})
	<-stopped
	unanswered := 0
	for _, c := range s.load.conns {
		if c.wants != nil {
			unanswered++
		}
	}
	require.Zero(t, unanswered, "POSTs that are not acknowledged within %s", startLimit)
}

// checkMessages requires that each of the acknowledged messages is in the stream once and in its conversation once,
// and that those of a connection for a page are in their order.
func (s *site) checkMessages(t *testing.T, acked map[string]ack) {
	t.Helper()
	var stored []sighting
	require.NoError(t, s.eventually(checkLimit, func() (err error) {
		stored, err = s.readStream()
		return err
	}), "read the stream")
	var shown []sighting
	head := uint64(0)
	if len(stored) > 0 {
		head = stored[len(stored)-1].seq
	}
	require.NoError(t, s.eventually(checkLimit, func() (err error) {
		shown, err = s.readConversations(head)
		return err
	}), "read conversations")

	s.compare("the stream", acked, stored)
	s.compare("conversations", acked, shown)
	for _, mid := range slices.Sorted(maps.Keys(s.lost)) {
		t.Logf("lost: %s; %s", s.lost[mid], s.explain(acked[mid].at))
	}
	assert.Empty(t, s.lost, "lost")
	assert.Empty(t, s.doubled, "doubled")
	assert.Empty(t, s.disordered, "out of order")
}

// verify requires that each read model is what the stream makes, and returns what the command says. Models that are built
// again are built one after the other, so it may have to wait for them.
func (s *site) verify(t *testing.T) (out string) {
	t.Helper()
	require.NoError(t, s.eventually(checkLimit, func() error {
		var code int
		if code, out = s.run("projections", "verify"); code != 0 && strings.Contains(out, "is being rebuilt") {
			return errors.New(out)
		}
		assert.Zero(t, code, "projections verify: %s", out)
		return nil
	}))
	return out
}

// compare adds what is wrong with a list of sightings to the site's maps.
func (s *site) compare(where string, acked map[string]ack, seen []sighting) {
	lost, doubled, disordered := compare(acked, seen)
	for _, mid := range lost {
		s.lost[mid] = mid + " is not in " + where
	}
	for _, mid := range doubled {
		s.doubled[mid] = mid + " is more than once in " + where
	}
	for _, mid := range disordered {
		s.disordered[mid] = mid + " is too late in " + where
	}
}

// explain says when an acknowledgement was, relative to the next fault.
func (s *site) explain(at time.Time) string {
	for _, f := range s.faults {
		switch {
		case at.Before(f.began):
			return fmt.Sprintf("acknowledged %s before the fault of %s", f.began.Sub(at), f.began.Format(time.TimeOnly))
		case at.Before(f.ended):
			return fmt.Sprintf("acknowledged during the fault of %s, %s after it began",
				f.began.Format(time.TimeOnly), at.Sub(f.began))
		}
	}
	return "acknowledged after the last fault"
}

// sighting is a message that was read from the program.
type sighting struct {
	seq           uint64
	mid           string
	page, contact string
}

// compare returns the acknowledged messages that are not among the sightings under their page and contact, the
// messages that are there more than once, and those that are there after a later one of their connection and
// page. Sightings are in the order of their sequences.
func compare(acked map[string]ack, seen []sighting) (lost, doubled, disordered []string) {
	times := map[string]int{}
	type lane struct{ page, load, connection string }
	last := map[lane]int{}
	for _, m := range seen {
		parts := strings.Split(m.mid, "_")
		if len(parts) != 4 {
			continue // not of this client
		}
		if a, ok := acked[m.mid]; ok && (m.page != pageID(a.page) || m.contact != contactID(a.connection)) {
			continue
		}
		if times[m.mid]++; times[m.mid] > 1 {
			if times[m.mid] == 2 {
				doubled = append(doubled, m.mid)
			}
			continue
		}
		number, err := strconv.Atoi(parts[3])
		in := lane{m.page, parts[1], parts[2]}
		if err != nil || number < last[in] {
			disordered = append(disordered, m.mid)
		}
		last[in] = max(last[in], number)
	}
	for _, mid := range slices.Sorted(maps.Keys(acked)) {
		if times[mid] == 0 {
			lost = append(lost, mid)
		}
	}
	return lost, doubled, disordered
}

// readStream returns the messages of the stream, in its order.
func (s *site) readStream() (out []sighting, err error) {
	for after := "0"; after != ""; {
		var page struct {
			Items []struct {
				Seq     uint64 `json:"seq"`
				Page    string `json:"page"`
				Contact string `json:"contact"`
				Data    struct {
					Message struct {
						MID string `json:"mid"`
					} `json:"message"`
				} `json:"data"`
			} `json:"items"`
			Next string `json:"next"`
		}
		query := url.Values{"limit": {"1000"}, "type": {"message.received"}, "after": {after}}
		if err := s.get("/api/v1/events", query, &page); err != nil {
			return nil, err
		}
		for _, e := range page.Items {
			out = append(out, sighting{seq: e.Seq, mid: e.Data.Message.MID, page: e.Page, contact: e.Contact})
		}
		if page.Next == after {
			return nil, fmt.Errorf("the cursor %s of the events does not advance", after)
		}
		after = page.Next
	}
	return out, nil
}

// readConversations returns the messages of all conversations as of event head, in the order of their
// sequences.
func (s *site) readConversations(head uint64) (out []sighting, err error) {
	for p := range pages {
		for c := range connections {
			id, contact := pageID(p), contactID(c)
			query := url.Values{"limit": {"500"}, "min_seq": {strconv.FormatUint(head, 10)}}
			for {
				var page struct {
					Items []struct {
						Seq uint64 `json:"seq"`
						MID string `json:"mid"`
					} `json:"items"`
					Next string `json:"next"`
				}
				err := s.get("/api/v1/conversations/"+id+"/"+contact+"/messages", query, &page)
				if errors.Is(err, errNotFound) {
					break
				}
				if err != nil {
					return nil, err
				}
				for _, m := range page.Items {
					out = append(out, sighting{seq: m.Seq, mid: m.MID, page: id, contact: contact})
				}
				if page.Next == "" {
					break
				}
				query.Set("cursor", page.Next)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b sighting) int { return int(int64(a.seq) - int64(b.seq)) })
	return out, nil
}

// errNotFound is returned when the API answers 404.
var errNotFound = errors.New("not found")

// get reads a resource of the API.
func (s *site) get(path string, query url.Values, out any) error {
	ctx, cancel := context.WithTimeout(s.ctx, 30*time.Second)
	defer cancel()
	resp, err := s.api(ctx, http.MethodGet, path+"?"+query.Encode())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return errNotFound
	default:
		return fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	return nil
}

// TestCompareFindsFaults checks the check itself.
func TestCompareFindsFaults(t *testing.T) {
	at := func(connection, number int) ack {
		return ack{item: item{
			mid: fmt.Sprintf("m_1_%d_%d", connection, number), page: 0, connection: connection, number: number,
		}}
	}
	saw := func(seq uint64, connection, number int) sighting {
		return sighting{
			seq: seq, mid: at(connection, number).mid, page: pageID(0), contact: contactID(connection),
		}
	}
	acked := map[string]ack{}
	for _, a := range []ack{at(0, 1), at(0, 2), at(1, 1)} {
		acked[a.mid] = a
	}
	for _, c := range []struct {
		name                      string
		seen                      []sighting
		lost, doubled, disordered []string
	}{
		{name: "all is well", seen: []sighting{saw(1, 0, 1), saw(2, 1, 1), saw(3, 0, 2)}},
		{name: "one that was not acknowledged", seen: []sighting{saw(1, 0, 1), saw(2, 1, 1), saw(3, 0, 2), saw(4, 0, 3)}},
		{name: "lost", seen: []sighting{saw(1, 0, 1), saw(2, 1, 1)}, lost: []string{"m_1_0_2"}},
		{
			name: "doubled", seen: []sighting{saw(1, 0, 1), saw(2, 1, 1), saw(3, 0, 2), saw(4, 1, 1)},
			doubled: []string{"m_1_1_1"},
		},
		{
			name: "out of order", seen: []sighting{saw(1, 0, 2), saw(2, 1, 1), saw(3, 0, 1)},
			disordered: []string{"m_1_0_1"},
		},
		{
			name: "another contact", lost: []string{"m_1_1_1"},
			seen: []sighting{saw(1, 0, 1), saw(2, 0, 2), {seq: 3, mid: "m_1_1_1", page: pageID(0), contact: contactID(0)}},
		},
	} {
		lost, doubled, disordered := compare(acked, c.seen)
		require.Equal(t, c.lost, lost, c.name)
		require.Equal(t, c.doubled, doubled, c.name)
		require.Equal(t, c.disordered, disordered, c.name)
	}
}
