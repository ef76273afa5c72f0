package bench

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
	"github.com/pagestream/pagestream/streams"
)

// signatureHeader carries the HMAC-SHA256 of the raw body.
const signatureHeader = "X-Hub-Signature-256"

// pagesAPost is how many pages a POST of many items is about at most.
const pagesAPost = 4

// text is what people write, of an ordinary length.
const text = "Hello, I ordered on Monday and nothing has come yet. Can you look?"

// traffic makes messages that are each new.
type traffic struct {
	pages, contacts int
	next            atomic.Uint64
}

func newTraffic(pages, contacts int) *traffic { return &traffic{pages: pages, contacts: contacts} }

// shot is a POST that is ready to be sent.
type shot struct {
	body      []byte
	signature string
}

// page is the id of page n.
func page(n uint64) string { return strconv.FormatUint(990000000000000+n, 10) }

// contact is the id of contact n, who writes to one page alone.
func contact(n uint64) string { return strconv.FormatUint(77000000000000000+n, 10) }

// place chooses page and contact of message n. A contact always writes to the
// same page.
func (t *traffic) place(n uint64) (pageN, contactN uint64) {
	c := mix(n) % uint64(t.contacts)
	return c % uint64(t.pages), c
}

// body makes a delivery of new messages.
func (t *traffic) body(items int) []byte {
	b := make([]byte, 0, 128+320*items)
	b = append(b, `{"object":"page","entry":[`...)
	at := time.Now().UnixMilli()
	entries := min(items, pagesAPost)
	for e := range entries {
		n := t.next.Add(1)
		pageN, contactN := t.place(n)
		if e > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"id":"`...)
		b = append(b, page(pageN)...)
		b = append(b, `","time":`...)
		b = strconv.AppendInt(b, at, 10)
		b = append(b, `,"messaging":[`...)
		for i := e; i < items; i += entries {
			if i > e {
				b = append(b, ',')
				n = t.next.Add(1)
				// Another contact of the same page.
				per := max(1, uint64(t.contacts)/uint64(t.pages))
				contactN = min(pageN+uint64(t.pages)*(mix(n)%per), uint64(t.contacts)-1)
				if contactN%uint64(t.pages) != pageN {
					contactN = pageN
				}
			}
			b = appendMessage(b, page(pageN), contact(contactN), mid(n), at)
		}
		b = append(b, `]}`...)
	}
	return append(b, `]}`...)
}

// mid is the id of message n, about as long as Meta's.
func mid(n uint64) string { return fmt.Sprintf("m_%016x%016x", mix(n), n) }

func appendMessage(b []byte, page, contact, mid string, at int64) []byte {
	b = append(b, `{"sender":{"id":"`...)
	b = append(b, contact...)
	b = append(b, `"},"recipient":{"id":"`...)
	b = append(b, page...)
	b = append(b, `"},"timestamp":`...)
	b = strconv.AppendInt(b, at, 10)
	b = append(b, `,"message":{"mid":"`...)
	b = append(b, mid...)
	b = append(b, `","text":"`...)
	b = append(b, text...)
	return append(b, `"}}`...)
}

// sign signs a body the way Meta does.
func sign(secret string, body []byte) shot {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write(body)
	return shot{body: body, signature: "sha256=" + hex.EncodeToString(m.Sum(nil))}
}

// shots makes n POSTs.
func (t *traffic) shots(secret string, n, items int) []shot {
	out := make([]shot, n)
	for i := range out {
		out[i] = sign(secret, t.body(items))
	}
	return out
}

// events makes n new events.
func (t *traffic) events(n int) []domain.Event {
	out := make([]domain.Event, 0, n)
	for len(out) < n {
		out = append(out, messenger.Split(t.body(min(100, n-len(out))), messenger.Options{App: "bench"}).Events...)
	}
	return out
}

// messages makes n new events as they are stored.
func (t *traffic) messages(n int) ([]*nats.Msg, error) {
	out := make([]*nats.Msg, n)
	for i, e := range t.events(n) {
		var err error
		if out[i], err = streams.Encode(e); err != nil {
			return nil, fmt.Errorf("encode events: %w", err)
		}
	}
	return out, nil
}

// mix is the finaliser of SplitMix64: close numbers in, unlike numbers out.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
