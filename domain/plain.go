package domain

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Most events are text messages and receipts, and each is encoded once and
// decoded for every read model and every rebuild. For the data of those, in the
// very form that Encode gives them, the functions of this file do what
// encoding/json does at a quarter of its time. They take nothing else: an
// escape, a member that they don't know or one in another place, and
// encoding/json does it all. So what they read and write is always what that
// would, which a fuzz test holds.

// appendPlain appends d without its raw item; false if it has more than plain
// text in the fields that are known here.
func appendPlain(b []byte, d *Data) ([]byte, bool) {
	if d.Test || d.Edit != nil || d.Reaction != nil || d.Postback != nil || d.Referral != nil || d.Optin != nil ||
		d.AccountLink != nil || d.Thread != nil || d.Policy != nil || d.Unreadable != nil || d.Connection != nil ||
		d.Subscription != nil || d.Profile != nil || d.Erasure != nil {
		return nil, false
	}
	w := plainWriter{b: append(b, '{')}
	w.text("app", d.App)
	w.text("object", d.Object)
	w.text("channel", d.Channel)
	w.text("kind", d.Kind)
	w.text("source", d.Source)
	w.text("sender", d.Sender)
	w.text("recipient", d.Recipient)
	w.number("entry_time", d.EntryTime)
	if m := d.Message; m != nil {
		if m.QuickReply != "" || m.ReplyTo != nil || m.Attachments != nil || m.Referral != nil ||
			m.Metadata != "" || m.Deleted || m.Unsupported || m.Commands != nil {
			return nil, false
		}
		w.open("message")
		w.text("mid", m.MID)
		w.text("text", m.Text)
		w.yes("echo", m.Echo)
		w.text("app_id", m.AppID)
		w.close()
	}
	if r := d.Delivery; r != nil {
		w.open("delivery")
		w.texts("mids", r.MIDs)
		w.number("watermark", r.Watermark)
		w.close()
	}
	if r := d.Read; r != nil {
		w.open("read")
		w.text("mid", r.MID)
		w.number("watermark", r.Watermark)
		w.close()
	}
	w.close()
	return w.b, !w.odd
}

// plainWriter appends members that are not empty. It is odd after a text that
// has to be escaped.
type plainWriter struct {
	b   []byte
	odd bool
}

func (w *plainWriter) name(name string) {
	if w.b[len(w.b)-1] != '{' {
		w.b = append(w.b, ',')
	}
	w.b = append(append(append(w.b, '"'), name...), `":`...)
}

func (w *plainWriter) quote(s string) {
	w.odd = w.odd || !plainText(s)
	w.b = append(append(append(w.b, '"'), s...), '"')
}

func (w *plainWriter) text(name, s string) {
	if s != "" {
		w.name(name)
		w.quote(s)
	}
}

func (w *plainWriter) texts(name string, list []string) {
	if len(list) == 0 {
		return
	}
	w.name(name)
	for i, s := range list {
		w.b = append(w.b, "[,"[min(i, 1)])
		w.quote(s)
	}
	w.b = append(w.b, ']')
}

func (w *plainWriter) number(name string, n int64) {
	if n != 0 {
		w.name(name)
		w.b = strconv.AppendInt(w.b, n, 10)
	}
}

func (w *plainWriter) yes(name string, yes bool) {
	if yes {
		w.name(name)
		w.b = append(w.b, "true"...)
	}
}

func (w *plainWriter) open(name string) {
	w.name(name)
	w.b = append(w.b, '{')
}

func (w *plainWriter) close() { w.b = append(w.b, '}') }

// plainText reports whether s is the same within quotes.
func plainText(s string) bool {
	ascii := true
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ', c == '"', c == '\\':
			return false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	// encoding/json escapes the line separators, U+2028 and U+2029.
	return ascii || utf8.ValidString(s) && !strings.Contains(s, "\u2028") && !strings.Contains(s, "\u2029")
}

// decodePlain reads what appendPlain wrote, and the raw item behind it; false if
// b is anything else.
func decodePlain(b []byte) (d Data, ok bool) {
	r := plainReader{b: b}
	r.open()
	d.App = r.text("app")
	d.Object = r.text("object")
	d.Channel = r.text("channel")
	d.Kind = r.text("kind")
	d.Source = r.text("source")
	d.Sender = r.text("sender")
	d.Recipient = r.text("recipient")
	d.EntryTime = r.number("entry_time")
	if r.member("message") {
		r.open()
		d.Message = &Message{MID: r.text("mid"), Text: r.text("text"), Echo: r.yes("echo"), AppID: r.text("app_id")}
		r.close()
	}
	if r.member("delivery") {
		r.open()
		d.Delivery = &Delivery{MIDs: r.texts("mids"), Watermark: r.number("watermark")}
		r.close()
	}
	if r.member("read") {
		r.open()
		d.Read = &Read{MID: r.text("mid"), Watermark: r.number("watermark")}
		r.close()
	}
	if r.member("raw") {
		raw := r.b[:max(0, len(r.b)-1)]
		// Of null, and of the space around a value, encoding/json keeps nothing.
		if len(raw) == 0 || raw[0] <= ' ' || raw[0] == 'n' || raw[len(raw)-1] <= ' ' || !json.Valid(raw) {
			return Data{}, false
		}
		d.Raw, r.b = bytes.Clone(raw), r.b[len(raw):]
	}
	r.close()
	return d, !r.odd && len(r.b) == 0
}

// plainReader reads members in the order in which a plainWriter wrote them. It
// is odd from the first byte on that such a writer would not have written; what
// it gives then means nothing.
type plainReader struct {
	b     []byte // what is left
	inner bool   // behind a member of the object
	odd   bool
}

func (r *plainReader) byte(c byte) {
	if len(r.b) == 0 || r.b[0] != c {
		r.odd = true
		return
	}
	r.b = r.b[1:]
}

func (r *plainReader) open() { r.byte('{'); r.inner = false }

func (r *plainReader) close() { r.byte('}'); r.inner = true }

// member reads a name, if it comes next.
func (r *plainReader) member(name string) bool {
	b := r.b
	if r.inner {
		if len(b) == 0 || b[0] != ',' {
			return false
		}
		b = b[1:]
	}
	n := len(name)
	if len(b) < n+3 || b[0] != '"' || string(b[1:n+1]) != name || b[n+1] != '"' || b[n+2] != ':' {
		return false
	}
	r.b, r.inner = b[n+3:], true
	return true
}

func (r *plainReader) text(name string) string {
	if !r.member(name) {
		return ""
	}
	return r.quoted()
}

func (r *plainReader) quoted() string {
	r.byte('"')
	n, ascii := 0, true
	for ; n < len(r.b) && r.b[n] != '"'; n++ {
		switch c := r.b[n]; {
		case c < ' ', c == '\\':
			r.odd = true
			return ""
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	s := common(r.b[:n])
	r.odd = r.odd || !ascii && !utf8.ValidString(s)
	r.b = r.b[n:]
	r.byte('"')
	return s
}

// words are in nearly every event.
var words = [...]string{"page", "messaging", "message", "webhook", "instagram", "delivery", "read"}

// common is b as a string; the words of nearly every event are not copied.
func common(b []byte) string {
	for _, w := range words {
		if string(b) == w {
			return w
		}
	}
	return string(b)
}

func (r *plainReader) texts(name string) []string {
	if !r.member(name) {
		return nil
	}
	list := []string{}
	for c := byte('['); !r.odd && (len(list) == 0 || len(r.b) > 0 && r.b[0] == ','); c = ',' {
		r.byte(c)
		list = append(list, r.quoted())
	}
	r.byte(']')
	return list
}

func (r *plainReader) number(name string) int64 {
	if !r.member(name) {
		return 0
	}
	n := 0
	for n < len(r.b) && (r.b[n] >= '0' && r.b[n] <= '9' || n == 0 && r.b[n] == '-') {
		n++
	}
	digits := strings.TrimPrefix(string(r.b[:n]), "-")
	v, err := strconv.ParseInt(string(r.b[:n]), 10, 64)
	r.odd = r.odd || err != nil || digits[0] == '0' // a zero is left out, and does not lead
	r.b = r.b[n:]
	return v
}

func (r *plainReader) yes(name string) bool {
	if !r.member(name) {
		return false
	}
	const yes = "true"
	r.odd = r.odd || !bytes.HasPrefix(r.b, []byte(yes))
	r.b = bytes.TrimPrefix(r.b, []byte(yes))
	return !r.odd
}
