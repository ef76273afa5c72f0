package loadgen

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // Meta's legacy header
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// traffic makes the messages of a run. Everything about message i of POST k
// follows from the run, k and i.
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

// firstPage is the id of the first page; the others follow.
const firstPage = 990000000000001

// fastest is the POSTs a millisecond that event times assume where there is no
// rate, so that they hardly run ahead of the clock.
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
	per := int64(fastest)
	at := t.start + int64(k)/per
	if t.rate > 0 {
		at = t.start + int64(k)*1000/int64(t.rate)
	}
	return message{
		post: k, item: i, page: int(h % uint64(t.pages)), contact: int((h >> 20) % uint64(t.contacts)),
		echo: (h>>56)%5 == 0, time: at,
	}
}

// index numbers the messages of a run from 0.
func (t *traffic) index(k uint64, i int) uint64 { return k*uint64(t.items) + uint64(i) }

func pageID(page int) string { return strconv.Itoa(firstPage + page) }

// contactID is a PSID of 17 digits: the run's ten and seven for the contact. A
// person has another PSID on each page.
func (t *traffic) contactID(page, contact int) string {
	n := strconv.Itoa(page*t.contacts + contact)
	return t.run + strings.Repeat("0", 7-len(n)) + n
}

// mid is the message's id: m_<run>_<post>_<item>.
func (t *traffic) mid(m message) string {
	return "m_" + t.run + "_" + strconv.FormatUint(m.post, 36) + "_" + strconv.FormatInt(int64(m.item), 36)
}

// parse finds the message that a mid names. It is false for those of other runs
// and for what no run makes.
func (t *traffic) parse(mid string) (message, bool) {
	rest, ours := strings.CutPrefix(mid, "m_"+t.run+"_")
	if !ours {
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

// body returns the delivery of POST k as sent at a moment: escaped to ASCII, one
// entry a page, the entries in order of their first message.
func (t *traffic) body(k uint64, sent time.Time) []byte {
	b := make([]byte, 0, 120+420*t.items)
	b = append(b, `{"object":"page","entry":[`...)
	done := make([]bool, t.items)
	first := true
	for i := range t.items {
		if done[i] {
			continue
		}
		page := t.message(k, i).page
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, `{"id":"`...)
		b = append(b, pageID(page)...)
		b = append(b, `","time":`...)
		b = strconv.AppendInt(b, sent.UnixMilli(), 10)
		b = append(b, `,"messaging":[`...)
		for j := i; j < t.items; j++ {
			m := t.message(k, j)
			if m.page != page {
				continue
			}
			done[j] = true
			if j > i {
				b = append(b, ',')
			}
			b = t.appendMessage(b, m)
		}
		b = append(b, `]}`...)
	}
	return append(b, `]}`...)
}

func (t *traffic) appendMessage(b []byte, m message) []byte {
	from, to := t.contactID(m.page, m.contact), pageID(m.page)
	if m.echo {
		from, to = to, from
	}
	b = append(b, `{"sender":{"id":"`...)
	b = append(b, from...)
	b = append(b, `"},"recipient":{"id":"`...)
	b = append(b, to...)
	b = append(b, `"},"timestamp":`...)
	b = strconv.AppendInt(b, m.time, 10)
	b = append(b, `,"message":{"mid":"`...)
	b = append(b, t.mid(m)...)
	if m.echo {
		b = append(b, `","is_echo":true,"app_id":263902037430900,"text":"Gr\u00fc\u00dfe, see https:\/\/example.com\/orders\/`...)
	} else {
		b = append(b, `","text":"Where is my order, p\u00e5 vej? \ud83d\ude4f https:\/\/example.com\/orders\/`...)
	}
	b = strconv.AppendUint(b, m.post, 10)
	return append(b, `"}}`...)
}

// header signs a body the way Meta does.
// https://developers.facebook.com/docs/messenger-platform/webhooks#validate-payloads
func (t *traffic) header(body []byte) http.Header {
	strong := hmac.New(sha256.New, t.secret)
	strong.Write(body)
	legacy := hmac.New(sha1.New, t.secret)
	legacy.Write(body)
	return http.Header{
		"Content-Type":        {"application/json"},
		"User-Agent":          {"facebookexternalua"},
		"X-Hub-Signature":     {"sha1=" + hex.EncodeToString(legacy.Sum(nil))},
		"X-Hub-Signature-256": {"sha256=" + hex.EncodeToString(strong.Sum(nil))},
	}
}

// mix is the finaliser of SplitMix64: close numbers in, unlike numbers out.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// bits is a growing set of numbers. Its zero value is empty.
type bits []uint64

func (b *bits) set(n uint64) {
	for uint64(len(*b)) <= n/64 {
		*b = append(*b, 0)
	}
	(*b)[n/64] |= 1 << (n % 64)
}

func (b bits) has(n uint64) bool { return n/64 < uint64(len(b)) && b[n/64]&(1<<(n%64)) != 0 }
