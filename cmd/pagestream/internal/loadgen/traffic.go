package loadgen

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // Meta's legacy header
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// traffic generates the messages of a run. Message i of POST k depends on the run, k
// and i only.
type traffic struct {
	run      string
	secret   []byte
	seed     uint64
	pages    int
	contacts int
	items    int
	start    int64 // Unix milliseconds
	rate     int
}

// fastest is the number of POSTs per millisecond from which the times of messages
// are computed if there is no rate. It is high, so that they are rarely ahead of the
// clock.
const fastest = 20

// message is one message of the run.
type message struct {
	post    uint64
	item    int
	page    int // 0 to pages-1
	contact int // 0 to contacts-1
	echo    bool
	time    int64 // Unix milliseconds
}

// message returns message i of POST k.
func (t *traffic) message(k uint64, i int) message {
	h := mix(t.seed ^ mix(k*maxItems+uint64(i)+1))
	at := t.start + int64(k)/fastest
	if t.rate > 0 {
		at = t.start + int64(k)*1000/int64(t.rate)
	}
	return message{
		post: k, item: i, page: int(h % uint64(t.pages)), contact: int((h >> 20) % uint64(t.contacts)),
		echo: (h>>56)%5 == 0, time: at,
	}
}

// index returns the number of message i of POST k among the messages of the run, from
// 0.
func (t *traffic) index(k uint64, i int) uint64 { return k*uint64(t.items) + uint64(i) }

// pageID returns the id of a page of a run: 99, the run's ten digits and the page's number. So the pages are the run's
// own, and can be forgotten at its end.
func pageID(run string, page int) string { return "99" + run + strconv.Itoa(page) }

func (t *traffic) pageID(page int) string { return pageID(t.run, page) }

// contactID returns a PSID of 17 digits: the run's ten and seven for the contact. A
// person has a different PSID on each page.
func (t *traffic) contactID(page, contact int) string {
	return fmt.Sprintf("%s%07d", t.run, page*t.contacts+contact)
}

// mid returns the message's id: m_<run>_<post>_<item>.
func (t *traffic) mid(m message) string {
	return "m_" + t.run + "_" + strconv.FormatUint(m.post, 36) + "_" + strconv.FormatInt(int64(m.item), 36)
}

// parse returns the message with that mid. It returns false for mids of other runs
// and for malformed ones.
func (t *traffic) parse(mid string) (message, bool) {
	rest, found := strings.CutPrefix(mid, "m_"+t.run+"_")
	if !found {
		return message{}, false
	}
	post, item, _ := strings.Cut(rest, "_")
	k, err := strconv.ParseUint(post, 36, 64)
	if err != nil || k > maxMessages {
		return message{}, false
	}
	i, err := strconv.ParseUint(item, 36, 16)
	if err != nil || int(i) >= t.items {
		return message{}, false
	}
	m := t.message(k, int(i))
	return m, t.mid(m) == mid
}

// body returns the body of POST k sent at a time: escaped to ASCII, with one entry
// per page, the entries in the order of their first message.
func (t *traffic) body(k uint64, sent time.Time) []byte {
	var entries []string
	done := make([]bool, t.items)
	for i := range t.items {
		if done[i] {
			continue
		}
		page := t.message(k, i).page
		var messages []string
		for j := i; j < t.items; j++ {
			if m := t.message(k, j); m.page == page {
				done[j] = true
				messages = append(messages, t.json(m))
			}
		}
		entries = append(entries, fmt.Sprintf(`{"id":%q,"time":%d,"messaging":[%s]}`,
			t.pageID(page), sent.UnixMilli(), strings.Join(messages, ",")))
	}
	return []byte(`{"object":"page","entry":[` + strings.Join(entries, ",") + `]}`)
}

func (t *traffic) json(m message) string {
	from, to := t.contactID(m.page, m.contact), t.pageID(m.page)
	text := `"text":"Where is my order, p\u00e5 vej? \ud83d\ude4f https:\/\/example.com\/orders\/`
	if m.echo {
		from, to = to, from
		text = `"is_echo":true,"app_id":263902037430900,"text":"Gr\u00fc\u00dfe, see https:\/\/example.com\/orders\/`
	}
	return fmt.Sprintf(`{"sender":{"id":%q},"recipient":{"id":%q},"timestamp":%d,"message":{"mid":%q,%s%d"}}`,
		from, to, m.time, t.mid(m), text, m.post)
}

// header returns the headers of a delivery, with signatures of the body as Meta makes
// them.
// https://developers.facebook.com/docs/messenger-platform/webhooks#validate-payloads
func (t *traffic) header(body []byte) http.Header {
	sum := func(h func() hash.Hash) string {
		m := hmac.New(h, t.secret)
		m.Write(body)
		return hex.EncodeToString(m.Sum(nil))
	}
	return http.Header{
		"Content-Type":        {"application/json"},
		"User-Agent":          {"facebookexternalua"},
		"X-Hub-Signature":     {"sha1=" + sum(sha1.New)},
		"X-Hub-Signature-256": {"sha256=" + sum(sha256.New)},
	}
}

// mix is the finalizer of SplitMix64, a hash function for integers.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// bits is a set of numbers that grows as needed. Its zero value is the empty set.
type bits []uint64

func (b *bits) set(n uint64) {
	for uint64(len(*b)) <= n/64 {
		*b = append(*b, 0)
	}
	(*b)[n/64] |= 1 << (n % 64)
}

func (b bits) has(n uint64) bool { return n/64 < uint64(len(b)) && b[n/64]&(1<<(n%64)) != 0 }
