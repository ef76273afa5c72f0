package fakegraph

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"
)

// generator generates what people and pages do. Its results depend on the seed and
// on the calls before. It is safe for concurrent use.
type generator struct {
	graph *Graph
	app   App
	opts  EngineOptions

	mu      sync.Mutex
	rng     *rand.Rand
	serial  uint64
	clock   int64 // the last timestamp, in Unix milliseconds
	threads map[string]*thread
}

// thread is the state of a conversation on which its next event depends.
type thread struct {
	instagram   bool
	begun       bool
	lastIn      string // mid of the person's last message; empty after an unsend
	lastInText  string
	edits       int
	waiting     int // the person's messages without an answer
	lastOut     string
	lastOutTime int64
	undelivered bool
	unread      bool
	reacted     bool
}

var (
	questions = []string{
		"Hi! Is this still available?", "Wo ist meine Bestellung? Größe 42, Farbe grün.", "Hvornår åbner I på søndag?",
		"¿Cuánto cuesta el envío a España?", "Can I change the delivery address?", "Merci beaucoup, c’était parfait 🎉",
		"I got the wrong item \U0001f614", "Do you ship to Łódź?", "こんにちは、営業時間を教えてください。", "ok 👍",
		"See https://example.com/orders/10482 please", "My order number is 10482", "Danke! Schöne Grüße",
	}
	answers = []string{
		"Hello! Let me check that for you.", "Ihre Bestellung ist unterwegs: https://example.com/track/77120",
		"Vi har åbent fra 10 til 16 på søndag.", "Yes, it is in stock.", "Of course — which address should it go to?",
		"Thank you for waiting 🙏", "We’re sorry about that! A replacement is on its way.", "Gern geschehen!",
		"You can see it here: https://example.com/help/shipping",
	}
	reactions = [][2]string{{"love", "❤"}, {"like", "👍"}, {"smile", "😆"}, {"wow", "😮"}, {"sad", "😢"}}
)

// next generates the next event on a page: one item, or the edit of a message and
// then the message.
func (t *generator) next(page string, now time.Time) []item {
	t.mu.Lock()
	defer t.mu.Unlock()
	people := t.graph.people[page]
	// A few people write much and most write little.
	psid := people[min(t.rng.IntN(len(people)), t.rng.IntN(len(people)))]
	if t.chance(t.opts.Changes) {
		return []item{t.change(page, psid, now)}
	}
	a := t.newEvent(page, psid, now)
	items := []item{a.nextEvent()}
	if items[0].field == "messages" && a.lastInText != "" && t.chance(t.opts.EditsFirst) {
		a.nextTime()
		items = []item{a.edit(), items[0]}
	}
	for n := range items {
		i := &items[n]
		hasStandby := slices.Contains(standbyKinds, i.field)
		a.finish(i)
		if hasStandby && t.rng.IntN(100) < t.opts.Standby { // another app owns the thread
			i.toStandby()
		}
	}
	return items
}

// say returns a message of a person with the given text.
func (t *generator) say(page, psid, text string, now time.Time) (i item, mid string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.newEvent(page, psid, now)
	mid = a.mid()
	i = a.personMessage(map[string]any{"mid": mid, "text": text})
	a.finish(&i)
	return i, mid
}

// onInstagram reports whether a person's thread with a page is on Instagram.
func (t *generator) onInstagram(page, psid string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.thread(page, psid).instagram
}

func (t *generator) thread(page, psid string) *thread {
	th := t.threads[psid]
	if th == nil {
		th = &thread{instagram: t.graph.onInstagram(t.app.ID, page, psid)}
		t.threads[psid] = th
	}
	return th
}

// newEvent starts the next event of a thread.
func (t *generator) newEvent(page, psid string, now time.Time) *eventBuilder {
	a := &eventBuilder{generator: t, thread: t.thread(page, psid), page: page, psid: psid}
	t.clock = max(t.clock, now.UnixMilli()-1)
	a.nextTime()
	return a
}

// chance returns true with the given probability in percent. At 0 it uses no random
// number, so that an option that is off does not change the traffic.
func (t *generator) chance(percent int) bool { return percent > 0 && t.rng.IntN(100) < percent }

// finish converts an item to the thread's platform, and writes ids and the timestamp
// in other forms that Meta has been seen to use, as often as the options say.
func (a *eventBuilder) finish(i *item) {
	if a.instagram {
		i.toInstagram(a.graph.instagram(a.page), a.lastOut)
	}
	t := a.generator
	if t.chance(t.opts.NumericIDs) {
		for _, who := range []string{"sender", "recipient"} {
			if m, ok := i.body[who].(map[string]any); ok {
				m["id"] = json.Number(fmt.Sprint(m["id"]))
			}
		}
	}
	at, ok := i.body["timestamp"].(int64)
	if !ok || !t.chance(t.opts.OddTimes) {
		return
	}
	switch t.rng.IntN(3) {
	case 0:
		i.body["timestamp"] = 0
	case 1:
		i.body["timestamp"] = at / 1000
	default:
		i.body["timestamp"] = strconv.FormatInt(at, 10)
	}
}

// standbyKinds are the fields whose items can also be in standby.
var standbyKinds = []string{"messages", "message_echoes", "message_deliveries", "message_reads", "messaging_postbacks"}

// eventBuilder builds one event of a thread.
type eventBuilder struct {
	*generator
	*thread
	page, psid string
	at         int64
}

// nextTime advances to a time that no event has yet.
func (a *eventBuilder) nextTime() {
	a.clock++
	a.at = a.clock
}

func (a *eventBuilder) nextEvent() item {
	r := a.rng.IntN(100)
	switch {
	case !a.begun && r < 15:
		a.begun = true
		return a.referral()
	case !a.begun && r < 40:
		a.begun = true
		return a.postback("Get Started", "GET_STARTED")
	case !a.begun:
		return a.message()
	case a.undelivered && !a.instagram && r < 60:
		return a.delivered()
	case a.unread && r < 50:
		return a.read()
	case a.waiting > 0 && r < 55:
		return a.echo()
	}
	switch r = a.rng.IntN(100); {
	case r < 72:
		return a.message()
	case r < 80 && a.lastOut != "":
		return a.reaction()
	case r < 86 && a.lastIn != "" && a.lastInText != "" && a.edits < 5: // Meta allows 5
		return a.edit()
	case r < 90 && a.lastIn != "":
		return a.unsend()
	case r < 96:
		return a.postback("Track my order", "TRACK_ORDER")
	case r < 98:
		return a.referral()
	}
	return a.message()
}

func (a *eventBuilder) mid() string {
	a.serial++
	return "m_" + letters(a.graph.hash("mid", a.opts.RunID, a.page, strconv.FormatUint(a.serial, 10)))
}

// item returns an item from the person to the page.
func (a *eventBuilder) item(field, key string, value any) item {
	return event(a.page, a.psid, a.page, a.at, field, key, value)
}

func event(page, from, to string, at int64, field, key string, value any) item {
	return item{page: page, object: objectPage, entry: page, field: field, body: map[string]any{
		"sender": map[string]any{"id": from}, "recipient": map[string]any{"id": to}, "timestamp": at, key: value,
	}}
}

func (a *eventBuilder) message() item {
	mid := a.mid()
	m := map[string]any{"mid": mid}
	text := questions[a.rng.IntN(len(questions))]
	switch r := a.rng.IntN(100); {
	case r < 8:
		text, m["attachments"] = "", []attachment{{Type: "image", Payload: map[string]any{
			"url": fmt.Sprintf("https://scontent.xx.fbcdn.net/v/t1.15752-9/%d_n.jpg?_nc_cat=1&oe=6A5F", a.rng.Uint64()>>20),
		}}}
	case r < 12 && !a.instagram:
		text, m["attachments"] = "", []attachment{{Type: "sticker", Payload: map[string]any{
			"url": "https://scontent.xx.fbcdn.net/v/t39.1997-6/thumb.png", "sticker_id": json.Number("369239263222822"),
		}}}
	case r < 17:
		text = "Yes"
		m["quick_reply"] = map[string]any{"payload": "ANSWER_YES"}
	case r < 22 && a.lastOut != "":
		m["reply_to"] = map[string]any{"mid": a.lastOut}
	}
	if text != "" {
		m["text"] = text
	}
	return a.personMessage(m)
}

// personMessage returns the item of a message of the person, and updates the thread.
func (a *eventBuilder) personMessage(m map[string]any) item {
	i := a.item("messages", "message", m)
	a.begun = true
	i.stored = a.stored(m, false)
	a.lastInText, a.lastIn = i.stored.text, i.stored.mid
	a.edits = 0
	a.waiting++
	return i
}

// stored returns a message as it is stored in its conversation.
func (a *eventBuilder) stored(m map[string]any, fromPage bool) *storedMessage {
	h := &storedMessage{page: a.page, psid: a.psid, platform: "messenger", fromPage: fromPage, at: time.UnixMilli(a.at)}
	h.mid, _ = m["mid"].(string)
	h.text, _ = m["text"].(string)
	h.attachments, _ = m["attachments"].([]attachment)
	return h
}

// echo returns the page's answer, which is sent to every app.
func (a *eventBuilder) echo() item {
	mid := a.mid()
	a.waiting = 0
	a.lastOut, a.lastOutTime, a.undelivered, a.unread, a.reacted = mid, a.at, true, true, false
	m := map[string]any{
		"mid": mid, "is_echo": true, "app_id": json.Number(a.app.ID), "text": answers[a.rng.IntN(len(answers))],
		"metadata": "agent-" + strconv.Itoa(1+a.rng.IntN(4)),
	}
	i := event(a.page, a.page, a.psid, a.at, "message_echoes", "message", m)
	i.stored = a.stored(m, true)
	return i
}

// delivered returns a delivery receipt for the page's messages up to the last one.
func (a *eventBuilder) delivered() item {
	a.undelivered = false
	i := a.item("message_deliveries", "delivery", map[string]any{"mids": []string{a.lastOut}, "watermark": a.lastOutTime})
	delete(i.body, "timestamp") // Meta's samples have none
	return i
}

// read returns a read receipt for the page's messages up to the last one.
func (a *eventBuilder) read() item {
	a.unread, a.undelivered = false, false
	return a.item("message_reads", "read", map[string]any{"watermark": a.lastOutTime})
}

func (a *eventBuilder) reaction() item {
	if a.reacted {
		a.reacted = false
		return a.item("message_reactions", "reaction", map[string]any{"mid": a.lastOut, "action": "unreact"})
	}
	a.reacted = true
	r := reactions[a.rng.IntN(len(reactions))]
	return a.item("message_reactions", "reaction",
		map[string]any{"mid": a.lastOut, "action": "react", "reaction": r[0], "emoji": r[1]})
}

func (a *eventBuilder) edit() item {
	a.edits++
	a.lastInText += " (edited)"
	return a.item("message_edits", "message_edit",
		map[string]any{"mid": a.lastIn, "text": a.lastInText, "num_edit": a.edits})
}

func (a *eventBuilder) unsend() item {
	mid := a.lastIn
	a.lastIn, a.lastInText = "", ""
	a.waiting = max(0, a.waiting-1)
	return a.item("messages", "message", map[string]any{"mid": mid, "is_deleted": true})
}

func (a *eventBuilder) postback(title, payload string) item {
	a.waiting++
	return a.item("messaging_postbacks", "postback", map[string]any{"mid": a.mid(), "title": title, "payload": payload})
}

func (a *eventBuilder) referral() item {
	return a.item("messaging_referrals", "referral", map[string]any{
		"ref": "spring-" + strconv.Itoa(a.rng.IntN(9)), "source": "SHORTLINK", "type": "OPEN_THREAD",
	})
}
