package messenger

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pagestream/pagestream/domain"
)

// This file has another implementation of Split, which was the first one. It parses one level of the JSON at a
// time, of text that encoding/json found valid. FuzzSplitEqual compares the two. The kinds themselves are read by
// the functions of the tables, from the bytes that were found here.

// parsed returns the value of a JSON text, the zero value of none.
func parsed(raw json.RawMessage) value {
	if raw == nil {
		return value{}
	}
	d, _ := domain.ParseJSON(raw)
	return value{doc: d}
}

type oldObject []oldMember

type oldMember struct {
	name   []byte
	quoted json.RawMessage // the name as it was written
	value  json.RawMessage
}

func oldAsObject(raw json.RawMessage) oldObject {
	if oldFirstByte(raw) != '{' {
		return nil
	}
	o := make(oldObject, 0, 6)
	for i := oldSkipSpace(raw, 1); raw[i] != '}'; {
		end := oldSkipString(raw, i)
		m := oldMember{name: raw[i+1 : end-1], quoted: raw[i:end]}
		if bytes.IndexByte(m.name, '\\') >= 0 {
			text, _ := oldAsText(m.quoted)
			m.name = []byte(text)
		}
		i = oldSkipSpace(raw, oldSkipSpace(raw, end)+1) // the colon
		end = oldSkipValue(raw, i)
		m.value = raw[i:end:end]
		o = append(o, m)
		i = oldSkipSpace(raw, end)
		if raw[i] == ',' {
			i = oldSkipSpace(raw, i+1)
		}
	}
	return o
}

func oldAsList(raw json.RawMessage) ([]json.RawMessage, bool) {
	if oldFirstByte(raw) != '[' {
		return nil, false
	}
	var list []json.RawMessage
	for i := oldSkipSpace(raw, 1); raw[i] != ']'; {
		end := oldSkipValue(raw, i)
		list = append(list, raw[i:end:end])
		i = oldSkipSpace(raw, end)
		if raw[i] == ',' {
			i = oldSkipSpace(raw, i+1)
		}
	}
	return list, true
}

func oldCountValues(raw json.RawMessage) (n int) {
	for i := oldSkipSpace(raw, 1); raw[i] != ']'; n++ {
		i = oldSkipSpace(raw, oldSkipValue(raw, i))
		if raw[i] == ',' {
			i = oldSkipSpace(raw, i+1)
		}
	}
	return n
}

func oldAsText(raw json.RawMessage) (string, bool) {
	if oldFirstByte(raw) != '"' {
		return "", false
	}
	if content := raw[1 : len(raw)-1]; bytes.IndexByte(content, '\\') < 0 && utf8.Valid(content) {
		return string(content), true
	}
	var s string
	return s, json.Unmarshal(raw, &s) == nil
}

func oldFirstByte(raw json.RawMessage) byte {
	if len(raw) == 0 || raw[0] == 'n' {
		return 0
	}
	return raw[0]
}

func (o oldObject) get(name string) json.RawMessage {
	for i := len(o) - 1; i >= 0; i-- {
		if string(o[i].name) == name {
			return o[i].value
		}
	}
	return nil
}

func (o oldObject) count(name string) int {
	n := 0
	for _, m := range o {
		if string(m.name) == name {
			n++
		}
	}
	return n
}

func (o oldObject) object(name string) oldObject { return oldAsObject(o.get(name)) }

func (o oldObject) text(name string) string { s, _ := oldAsText(o.get(name)); return s }

func (o oldObject) payload(name string) string {
	raw := o.get(name)
	if s, ok := oldAsText(raw); ok {
		return s
	}
	var text bytes.Buffer
	if oldFirstByte(raw) == 0 || json.Compact(&text, raw) != nil {
		return ""
	}
	return strings.ToValidUTF8(text.String(), "\ufffd")
}

func (o oldObject) is(name string) bool { return oldFirstByte(o.get(name)) == 't' }

func (o oldObject) id(name string) string { return oldAsID(o.get(name)) }

func oldSkipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\r' || b[i] == '\n') {
		i++
	}
	return i
}

func oldSkipString(b []byte, i int) int {
	for i++; b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return i + 1
}

func oldSkipValue(b []byte, i int) int {
	switch b[i] {
	case '"':
		return oldSkipString(b, i)
	case '{', '[':
		depth := 0
		for {
			switch b[i] {
			case '"':
				i = oldSkipString(b, i)
				continue
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
			i++
		}
	}
	for i < len(b) {
		switch b[i] {
		case ',', ']', '}', ' ', '\t', '\r', '\n':
			return i
		}
		i++
	}
	return i
}

func oldAsID(raw json.RawMessage) string {
	switch c := oldFirstByte(raw); {
	case c == '"':
		s, _ := oldAsText(raw)
		if strings.ContainsRune(s, utf8.RuneError) {
			return ""
		}
		return s
	case c == '-' || c >= '0' && c <= '9':
		return integer(string(raw))
	}
	return ""
}

func oldAsIDs(raw json.RawMessage) []string {
	var ids []string
	list, _ := oldAsList(raw)
	for _, item := range list {
		if id := oldAsID(item); id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

func (o oldObject) float(name string) *float64 {
	f, err := strconv.ParseFloat(string(o.get(name)), 64)
	if err != nil {
		return nil
	}
	return &f
}

func (o oldObject) number(name string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(o.id(name)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (o oldObject) millis(name string) int64 { return oldAsMillis(o.get(name)) }

func oldAsMillis(raw json.RawMessage) int64 {
	text := strings.TrimSpace(oldAsID(raw))
	if text == "" {
		return 0
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05-0700"} {
			if t, err := time.Parse(layout, text); err == nil {
				// In UTC, the last hours of 9999 in a zone west of it are in 10000.
				if t.UTC().Year() > 9999 {
					return 0
				}
				return max(t.UnixMilli(), 0)
			}
		}
		return 0
	}
	switch {
	case n <= 0:
		return 0
	case n < 1e11:
		return n * 1000
	case n < 1e14:
		return n
	case n < 1e17:
		return n / 1e3
	}
	return n / 1e6
}

func oldHash(raw json.RawMessage) string { return digest(oldCanonical(raw)) }

func oldCanonical(raw json.RawMessage) []byte {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return raw
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if e.Encode(v) != nil {
		return raw
	}
	b := bytes.TrimSuffix(out.Bytes(), []byte("\n"))
	if bytes.ContainsRune(b, utf8.RuneError) || oldCountNames(b) != oldCountNames(raw) {
		return raw
	}
	return b
}

func oldCountNames(raw []byte) int {
	n := 0
	for i := 0; i < len(raw); {
		switch raw[i] {
		case '"':
			i = oldSkipString(raw, i)
			continue
		case ':':
			n++
		}
		i++
	}
	return n
}

func oldWithoutTime(entry json.RawMessage) json.RawMessage {
	fields := oldAsObject(entry)
	if fields == nil {
		return entry
	}
	b := make(json.RawMessage, 0, len(entry))
	b = append(b, '{')
	for _, m := range fields {
		if string(m.name) == "time" {
			continue
		}
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(append(append(b, m.quoted...), ':'), m.value...)
	}
	return append(b, '}')
}

func oldSplit(body []byte, o Options) Result {
	o.Source = cmp.Or(o.Source, "webhook")
	if o.Account == nil {
		o.Account = func(domain.PageID) string { return "" }
	}
	s := oldSplitter{opts: o}
	if !json.Valid(body) {
		return s.unreadable(body, "not JSON, or nested too deeply")
	}
	delivery := json.RawMessage(bytes.TrimSpace(body))
	top := oldAsObject(delivery)
	if top == nil {
		return s.unreadable(body, "not a JSON object")
	}
	var entries []json.RawMessage
	for _, m := range top {
		if string(m.name) != "entry" {
			continue
		}
		list, ok := oldAsList(m.value)
		if !ok {
			return s.unreadable(body, "entry is not an array")
		}
		entries = append(entries, list...)
	}
	s.object = top.id("object")
	// An item has at least two bytes, with the comma.
	if o.MaxItems > 0 && len(body) > 2*o.MaxItems {
		if n := oldCountItems(entries); n > o.MaxItems {
			return Result{Items: n, TooMany: true}
		}
	}
	switch {
	case top.count("entry") == 0:
		return s.unreadable(body, "no entry array")
	case len(entries) == 0 && !json.Valid(slices.Concat([]byte{'['}, delivery, []byte{']'})):
		// An event would nest the delivery one level deeper and could not be decoded.
		return s.unreadable(body, "nested too deeply")
	case len(entries) == 0:
		s.add(s.unrecognized(oldItem{raw: delivery}, ""))
	}
	for _, e := range entries {
		s.entry(e)
	}
	return Result{Events: s.events, Items: len(s.events)}
}

func oldCountItems(entries []json.RawMessage) int {
	total := 0
	for _, raw := range entries {
		n := 0
		for _, m := range oldAsObject(raw) {
			switch {
			case channelOf(m.name) == "" || oldFirstByte(m.value) == 0:
			case m.value[0] == '[':
				n += oldCountValues(m.value)
			default:
				n++
			}
		}
		total += max(n, 1)
	}
	return total
}

func oldIsDelivery(body []byte) bool {
	if !json.Valid(body) {
		return false
	}
	top := oldAsObject(bytes.TrimSpace(body))
	_, text := oldAsText(top.get("object"))
	_, list := oldAsList(top.get("entry"))
	return text && list
}

type oldSplitter struct {
	opts   Options
	object string
	events []domain.Event
	// equal counts the items of the current entry that have no identity of their own, by
	// their channel and hash.
	equal map[string]int
}

type oldItem struct {
	raw     json.RawMessage
	fields  oldObject // nil if raw is not an object
	channel string
	page    domain.PageID // entry.id, empty where absent
	sent    int64         // entry.time in Unix milliseconds, 0 where absent
	test    bool          // from the dashboard's Test button
	echo    bool          // a message that the page sent
}

func (s *oldSplitter) add(e domain.Event) { s.events = append(s.events, e) }

func (s *oldSplitter) unreadable(body []byte, reason string) Result {
	e := domain.Event{
		ID:   domain.DedupID("", domain.NoPage, classHash, digest(body)),
		Type: domain.DeliveryUnreadable,
		Page: domain.NoPage,
		Data: domain.Data{
			App: s.opts.App, AppID: s.opts.AppID, Source: s.opts.Source,
			Unreadable: &domain.Unreadable{Reason: reason, Body: body},
		},
	}
	return Result{Events: []domain.Event{e}, Items: 1}
}

func (s *oldSplitter) entry(raw json.RawMessage) {
	fields := oldAsObject(raw)
	it := oldItem{page: domain.PageID(bounded(fields.id("id"))), sent: fields.millis("time")}
	before := len(s.events)
	clear(s.equal)
	for _, m := range fields {
		channel := channelOf(m.name)
		if channel == "" || oldFirstByte(m.value) == 0 {
			continue
		}
		it := it
		it.channel = channel
		it.test = it.page == testEntry && channel == channelChanges
		list, ok := oldAsList(m.value)
		if !ok {
			it.raw = m.value
			s.add(s.unrecognized(it, channel))
			continue
		}
		s.events = slices.Grow(s.events, len(list))
		for _, v := range list {
			it.raw, it.fields = v, oldAsObject(v)
			s.add(s.item(it))
		}
	}
	if len(s.events) == before {
		it.raw = raw
		e := s.event(it, domain.DeliveryUnrecognized, "")
		s.identifyBy(&e, it, oldHash(oldWithoutTime(raw)), false)
		s.add(e)
	}
}

func (s *oldSplitter) item(it oldItem) domain.Event {
	switch {
	case it.channel == channelFields:
		if field, ok := oldAsText(it.raw); ok {
			return s.change(it, field)
		}
		return s.unrecognized(it, "")
	case it.fields == nil:
		return s.unrecognized(it, "")
	case it.channel == channelChanges:
		field := it.fields.text("field")
		if value := it.fields.object("value"); !it.test && oldIsMessaging(field, value) {
			// The change's value is a messaging item: it is the same fact, so it gets
			// the same id as in the messaging array.
			inner := it
			inner.fields, inner.raw = value, it.fields.get("value")
			e := s.message(inner)
			e.Data.Raw = it.raw
			return e
		}
		return s.change(it, field)
	}
	return s.message(it)
}

func oldIsMessaging(field string, value oldObject) bool {
	if value.object("sender") == nil && value.object("recipient") == nil {
		return false
	}
	k, _ := oldKindOf(value)
	return k != nil && (strings.HasPrefix(field, "messag") || k.fields(field))
}

func (s *oldSplitter) change(it oldItem, field string) domain.Event {
	e := s.event(it, domain.ChangeReceived, field)
	content := it.fields.object("value")
	own := "timestamp"
	v := parsed(it.fields.get("value"))
	if v.first() != '{' {
		v = value{}
	}
	if k := changeOf(field, v); k != nil && !it.test && it.fields.count("value") == 1 {
		e.Type, own = k.typ, k.time
		k.read(v, &e)
	}
	e.Contact = ""
	if id := author(v).ID; bounded(id) != string(e.Page) { // a change by the page itself has no contact
		e.Contact = domain.ContactID(bounded(id))
	}
	at := content.millis(own)
	e.Time = fromMillis(cmp.Or(at, it.sent))
	s.identify(&e, it, at > 0)
	return e
}

func (s *oldSplitter) unrecognized(it oldItem, kind string) domain.Event {
	e := s.event(it, domain.DeliveryUnrecognized, kind)
	s.identify(&e, it, it.fields.millis("timestamp") > 0)
	return e
}

func (s *oldSplitter) identify(e *domain.Event, it oldItem, own bool) {
	s.identifyBy(e, it, oldHash(it.raw), own)
}

func (s *oldSplitter) identifyBy(e *domain.Event, it oldItem, hash string, own bool) {
	k := key{classHash, hash}
	if e.Type == domain.PostbackReceived && e.Standby {
		k = keyOf(classHash, channelStandby, hash)
	}
	if own || it.sent == 0 {
		e.ID = s.id(*e, k)
		return
	}
	if s.equal == nil {
		s.equal = map[string]int{}
	}
	same := it.channel + hash
	before := s.equal[same]
	s.equal[same]++
	e.Data.Fact = k.text
	k.text = digest([]byte(strings.Join([]string{k.text, formatInt(it.sent), strconv.Itoa(before)}, "|")))
	e.ID = s.id(*e, k)
}

func (s *oldSplitter) event(it oldItem, t domain.Type, kind string) domain.Event {
	sender, recipient := it.fields.object("sender"), it.fields.object("recipient")
	from, to := sender.id("id"), recipient.id("id")
	e := domain.Event{
		Type: t, Page: it.page, Standby: it.channel == channelStandby,
		Time: fromMillis(cmp.Or(it.fields.millis("timestamp"), it.sent)),
		Data: domain.Data{
			App: s.opts.App, AppID: s.opts.AppID, Source: s.opts.Source, Object: s.object, Channel: it.channel, Kind: kind,
			Sender: from, Recipient: to, EntryTime: it.sent, Test: it.test, Raw: it.raw,
		},
	}
	if e.Page == "" { // some deliveries have no entry id
		owner := to
		if it.echo {
			owner = from
		}
		e.Page = cmp.Or(domain.PageID(bounded(owner)), domain.NoPage)
	}
	// The contact is the one of sender and recipient that is not the page: the
	// recipient of a message that the page sent, and of old receipts, which have
	// sender and recipient swapped. In samples both may have the same id.
	contact := cmp.Or(from, sender.id("user_ref"), it.fields.object("optin").id("user_ref"))
	if !s.owns(e.Page, to) && (it.echo || s.owns(e.Page, from)) {
		contact = to
	}
	e.Contact = domain.ContactID(bounded(cmp.Or(contact, recipient.id("user_ref"))))
	return e
}

func (s *oldSplitter) owns(page domain.PageID, id string) bool {
	switch {
	case id == "":
		return false
	case bounded(id) == string(page):
		return true
	case s.object != "instagram":
		return false
	}
	account := s.opts.Account(page)
	return id == account || account == "" && len(id) == 17 && strings.HasPrefix(id, "17841")
}

func (s *oldSplitter) id(e domain.Event, k key) string {
	return domain.DedupID(s.object, e.Page, k.class, k.text)
}

func oldKindOf(fields oldObject) (*itemKind, oldObject) {
	for i := range kinds {
		if v := fields.object(kinds[i].name); v != nil {
			return &kinds[i], v
		}
	}
	return nil, nil
}

func oldNameOf(fields oldObject) string {
	for _, k := range kinds {
		if fields.count(k.name) > 0 {
			return k.name
		}
	}
	for _, name := range untyped {
		if fields.count(name) > 0 {
			return name
		}
	}
	first := ""
	for _, m := range fields {
		if name := string(m.name); !slices.Contains(commonFields, name) && (first == "" || name < first) {
			first = name
		}
	}
	return first
}

func (s *oldSplitter) message(it oldItem) domain.Event {
	k, v := oldKindOf(it.fields)
	if k == nil {
		return s.unrecognized(it, oldNameOf(it.fields))
	}
	it.echo = k.name == "message" && v.is("is_echo")
	e := s.event(it, domain.DeliveryUnrecognized, k.name)
	id, ok := k.read(item{fields: parsed(it.raw)}, parsed(it.fields.get(k.name)), &e)
	// If the kind's key is repeated, it is not clear which value counts.
	if !ok || it.fields.count(k.name) > 1 {
		return s.unrecognized(it, k.name)
	}
	if id.class == "" {
		s.identify(&e, it, it.fields.millis("timestamp") > 0 || v.id("mid") != "")
		return e
	}
	e.ID = s.id(e, id)
	return e
}

func oldSorted(o oldObject) oldObject {
	return slices.SortedStableFunc(slices.Values(o), func(a, b oldMember) int { return bytes.Compare(a.name, b.name) })
}
