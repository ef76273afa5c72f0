package bench

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
	"github.com/pagestream/pagestream/streams"
)

// signatureHeader is the header with the HMAC-SHA256 of the raw body.
const signatureHeader = "X-Hub-Signature-256"

// pagesPerPost is the maximum number of pages in a POST.
const pagesPerPost = 4

// textLength is the length of a message, in bytes. It is an ordinary one.
const textLength = 66

// text returns the text of message n: words of random letters. Nothing in it repeats, so that a compressed stream is not
// smaller than one of real messages.
func text(n uint64) string {
	b := make([]byte, textLength)
	x := n
	for i := range b {
		switch {
		case i%6 == 5:
			b[i] = ' '
			continue
		case i%12 == 0: // 5 bits a letter
			x = mix(x + 1)
		}
		b[i] = 'a' + byte(x>>(5*(i%12))&31)%26
	}
	return string(b)
}

// traffic generates messages that are all different.
type traffic struct {
	pages, contacts int
	next            atomic.Uint64
}

func newTraffic(pages, contacts int) *traffic { return &traffic{pages: pages, contacts: contacts} }

// shot is a signed POST that is ready to be sent.
type shot struct {
	body      []byte
	signature string
}

// page returns the id of page n.
func page(n uint64) string { return strconv.FormatUint(990000000000000+n, 10) }

// contact returns the id of contact n, who writes to one page only.
func contact(n uint64) string { return strconv.FormatUint(77000000000000000+n, 10) }

// place returns the page and contact of message n. A contact always writes to the
// same page.
func (t *traffic) place(n uint64) (pageN, contactN uint64) {
	c := mix(n) % uint64(t.contacts)
	return c % uint64(t.pages), c
}

// delivery returns the body of a POST.
func delivery(entries ...string) []byte {
	return []byte(`{"object":"page","entry":[` + strings.Join(entries, ",") + `]}`)
}

// entry returns the entry of one page in a delivery.
func entry(pageN uint64, at int64, items ...string) string {
	return fmt.Sprintf(`{"id":%q,"time":%d,"messaging":[%s]}`, page(pageN), at, strings.Join(items, ","))
}

// body returns a delivery with new messages.
func (t *traffic) body(items int) []byte {
	entries := make([]string, min(items, pagesPerPost))
	at := time.Now().UnixMilli()
	for e := range entries {
		var messages []string
		n := t.next.Add(1)
		pageN, contactN := t.place(n)
		for i := e; i < items; i += len(entries) {
			if i > e {
				n = t.next.Add(1)
				// The other messages of an entry are of other contacts of its page.
				per := max(1, uint64(t.contacts)/uint64(t.pages))
				contactN = pageN + uint64(t.pages)*(mix(n)%per)
			}
			messages = append(messages, item(pageN, contactN, n, at))
		}
		entries[e] = entry(pageN, at, messages...)
	}
	return delivery(entries...)
}

// mid returns the id of message n, which is about as long as Meta's.
func mid(n uint64) string { return fmt.Sprintf("m_%016x%016x", mix(n), n) }

// item returns message n from a contact to a page.
func item(pageN, contactN, n uint64, at int64) string {
	return fmt.Sprintf(`{"sender":{"id":%q},"recipient":{"id":%q},"timestamp":%d,"message":{"mid":%q,"text":%q}}`,
		contact(contactN), page(pageN), at, mid(n), text(n))
}

// signature returns the value of [signatureHeader] for a body, as Meta sends it.
func signature(secret string, body []byte) string {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write(body)
	return "sha256=" + hex.EncodeToString(m.Sum(nil))
}

func sign(secret string, body []byte) shot { return shot{body, signature(secret, body)} }

// shots returns n POSTs of new messages.
func (t *traffic) shots(secret string, n, items int) []shot {
	out := make([]shot, n)
	for i := range out {
		out[i] = sign(secret, t.body(items))
	}
	return out
}

// events returns n new events.
func (t *traffic) events(n int) []domain.Event {
	out := make([]domain.Event, 0, n)
	for len(out) < n {
		out = append(out, messenger.Split(t.body(min(100, n-len(out))), messenger.Options{App: "bench"}).Events...)
	}
	return out
}

// messages returns n new events as NATS messages.
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

// mix is the finalizer of SplitMix64, a hash function for integers.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
