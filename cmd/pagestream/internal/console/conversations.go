package console

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/outbound"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/projections/subscriptions"
	"github.com/pagestream/pagestream/streams"
)

// Sizes of the lists on one page, and the limit of a reply.
const (
	listSize   = 50
	threadSize = 100
	maxReply   = 2000 // characters, Meta's limit of a text
)

// conversationPagesView is the view of all pages that have conversations.
type conversationPagesView struct {
	Pages []conversationPage
	// Names are the names of companies by id.
	Names map[string]string
}

type conversationPage struct {
	Page   pages.Page
	Counts conversations.Counts
}

// conversationPages serves GET /conversations?by=page: the pages, sorted by their last message.
func (c *Console) conversationPages(w http.ResponseWriter, r *http.Request) error {
	var v conversationPagesView
	err := pages.Each(c.opts.Pages, func(p pages.Page) error {
		n, err := conversations.Count(c.opts.Conversations, p.ID)
		if err == nil && n.Conversations > 0 {
			v.Pages = append(v.Pages, conversationPage{p, n})
		}
		return err
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(v.Pages, func(a, b conversationPage) int {
		return b.Page.Traffic.LastMessage.Compare(a.Page.Traffic.LastMessage)
	})
	v.Pages = v.Pages[:min(len(v.Pages), maxRows)]
	if v.Names, err = c.names(r.Context()); err != nil {
		return err
	}
	c.show(w, r, http.StatusOK, "conversation-pages", "Conversations", v)
	return nil
}

// conversationsView is the view of a page's conversations. If Thread is set, one of
// them is open.
type conversationsView struct {
	Page pages.Page
	List []conversations.Conversation
	// Next is the cursor of the older conversations, Cursor the one of this list.
	Next, Cursor string
	// AsOf is the sequence up to which everything shown is complete.
	AsOf   uint64
	Thread *threadView
	// Contact is the contact of the open thread, which is marked in the list.
	Contact domain.ContactID
}

// toConversations serves GET /conversations/{page}. A user who removes the contact from
// a thread's URL is redirected to the page's conversations.
func toConversations(w http.ResponseWriter, r *http.Request) error {
	http.Redirect(w, r, pathOf("pages", pageOf(r), "conversations"), http.StatusSeeOther)
	return nil
}

// conversations serves GET /pages/{page}/conversations.
func (c *Console) conversations(w http.ResponseWriter, r *http.Request) error {
	v, err := c.conversationList(r)
	if err != nil {
		return err
	}
	v.Contact = domain.ContactID(r.URL.Query().Get("contact")) // a thread asks for its list again
	c.show(w, r, http.StatusOK, "conversations", "Conversations of "+nameOf(v.Page), v)
	return nil
}

func (c *Console) conversationList(r *http.Request) (v conversationsView, err error) {
	v.AsOf = c.opts.Conversations.Status().Seq // before anything is read
	if v.Page, err = pages.Get(c.opts.Pages, pageOf(r)); err != nil {
		return v, err
	}
	v.Cursor = r.URL.Query().Get("cursor")
	v.List, v.Next, err = conversations.List(c.opts.Conversations, v.Page.ID, v.Cursor, listSize)
	return v, err
}

// threadView is the view of one conversation.
type threadView struct {
	Conversation conversations.Conversation
	// Items are messages, days and gaps, the oldest first.
	Items []item
	// Earlier is the cursor of the older messages.
	Earlier string
	// At is the sequence of the event that the thread is shown as of, 0 for now. First
	// and Last are the bounds of the time slider.
	At, First, Last uint64
	// AtTime is when the event At, or for now the last one, was stored; zero if that event was erased.
	AtTime time.Time
	Window window
	// Closed says why no reply can be sent, empty if one can.
	Closed string
	// Text is the text of a reply that could not be sent; Sent is set if one was.
	Text string
	Sent bool
	// Owner is the app that owns the thread, if it is another app.
	Owner string
}

// item is a message, a day or a gap; exactly one of these fields is set. Ours is set for a
// message that was sent with this installation or by one of its apps.
type item struct {
	Message *conversations.Message
	Ours    bool
	Day     string
	Gap     *gap
}

// gap is a period in which the page was not subscribed: messages of that time may be
// missing.
type gap struct {
	From, To time.Time // To is zero while the gap lasts
	Why      string
}

// window is the messaging window in which a page may reply now.
type window struct {
	// Standard is set if the contact wrote within the last 24 hours; Human if it was
	// within 7 days, when the tag HUMAN_AGENT is required.
	Standard, Human bool
	Until           time.Time
}

// Meta's messaging windows. Source: Messenger Platform, "Sending Messages": a page may
// reply within 24 hours of a person's message, and a human agent within 7 days.
const (
	standardWindow = 24 * time.Hour
	humanWindow    = 7 * 24 * time.Hour
	humanTag       = "HUMAN_AGENT"
)

// windowOf returns the window after the contact's last message. It is closed if the
// contact never wrote, because lastIn is the zero time then.
func windowOf(lastIn, now time.Time) window {
	switch since := now.Sub(lastIn); {
	case since < standardWindow:
		return window{Standard: true, Until: lastIn.Add(standardWindow)}
	case since < humanWindow:
		return window{Human: true, Until: lastIn.Add(humanWindow)}
	}
	return window{}
}

// closed returns why a page can't send a reply, empty if it can.
func (c *Console) closed(page pages.Page, w window) (string, error) {
	if page.LinkedPage != "" { // an Instagram account sends with its page's token
		linked, err := pages.Get(c.opts.Pages, page.LinkedPage)
		if err != nil && !errors.Is(err, pages.ErrNotFound) {
			return "", err
		}
		page = linked
	}
	switch {
	case page.State != pages.Connected:
		return "The page is not connected: connect it to answer.", nil
	case page.Token != pages.TokenValid:
		return "Meta refuses the page's token: reconnect the page to answer.", nil
	case !w.Standard && !w.Human:
		return "The window to answer is closed: Meta lets a page answer within 24 hours of the contact's last " +
			"message, and a person within 7 days.", nil
	}
	return "", nil
}

// thread serves GET /conversations/{page}/{contact}, with ?at_seq= as of an event.
func (c *Console) thread(w http.ResponseWriter, r *http.Request) error {
	return c.showThread(w, r, http.StatusOK, "", "", "")
}

// showThread responds with a thread. After a reply done or failed has its outcome, and text is
// what could not be sent.
func (c *Console) showThread(w http.ResponseWriter, r *http.Request, status int, done, failed, text string) error {
	v, err := c.conversationList(r)
	if err != nil {
		return err
	}
	v.Contact = contactOf(r)
	if v.Thread, err = c.readThread(w, r, v.Page); err != nil {
		return err
	}
	v.Thread.Text, v.Thread.Sent = text, r.Method == http.MethodPost && status == http.StatusOK
	c.showOutcome(w, r, status, "conversations", title(v.Thread.Conversation), v, done, failed)
	return nil
}

func title(c conversations.Conversation) string {
	return cmp.Or(c.Name, "Contact "+string(c.Contact))
}

// pastWait bounds how long reading a past state may take.
const pastWait = 50 * time.Second

func (c *Console) readThread(w http.ResponseWriter, r *http.Request, page pages.Page) (*threadView, error) {
	contact, q := contactOf(r), r.URL.Query()
	t := &threadView{}
	if at := q.Get("at_seq"); at != "" {
		var err error
		if t.At, err = sequence(at); err != nil {
			return nil, err
		}
	}
	if err := c.readBounds(r.Context(), t, page.ID, contact); err != nil {
		return nil, err
	}
	read := func(v projections.Viewer) error {
		var err error
		if t.Conversation, err = conversations.Get(v, page.ID, contact); err != nil {
			return err
		}
		list, next, err := conversations.Messages(v, page.ID, contact, q.Get("before"), threadSize, true)
		if err != nil {
			return err
		}
		slices.Reverse(list)
		t.Earlier = next
		gaps, err := c.gaps(page)
		t.Items = itemsOf(list, gaps)
		for i, it := range t.Items {
			t.Items[i].Ours = it.Message != nil && c.ours(*it.Message)
		}
		return err
	}
	if t.At == 0 || t.At >= t.Last {
		if t.At = 0; q.Has("at_seq") { // the slider was moved to its end
			w.Header().Set("Hx-Replace-Url", r.URL.Path)
		}
		if err := read(c.opts.Conversations); err != nil {
			return nil, err
		}
	} else {
		ctx, cancel := context.WithTimeout(r.Context(), pastWait)
		defer cancel()
		err := c.opts.Operator.Past(ctx, page.ID, contact, t.At, time.Time{}, read)
		if errors.Is(err, conversations.ErrNotFound) {
			t.Conversation.Page, t.Conversation.Contact = page.ID, contact
			t.Items = nil // the conversation had not begun yet
		} else if err != nil {
			return nil, err
		}
	}
	t.Window = windowOf(t.Conversation.LastIn, time.Now())
	var err error
	if t.Closed, err = c.closed(page, t.Window); err != nil {
		return nil, err
	}
	if th := t.Conversation.Thread; th != nil && th.Owner != "" && t.Conversation.Standby {
		t.Owner = th.Owner
	}
	return t, nil
}

// ours reports whether a message was sent with this installation, or by one of its apps.
func (c *Console) ours(m conversations.Message) bool {
	return m.Direction == conversations.Out && (m.Source == domain.SourceSend || c.opts.Operator.IsOwnApp(m.AppID))
}

// readBounds sets the first and the last event of a conversation, and the time of the one
// that it is shown as of.
func (c *Console) readBounds(ctx context.Context, t *threadView, page domain.PageID, contact domain.ContactID) error {
	first, err := conversations.EventsOf(c.opts.Conversations, page, contact, 0, 1)
	if err != nil || len(first) == 0 {
		return err
	}
	now, err := conversations.Get(c.opts.Conversations, page, contact)
	if err != nil {
		return err
	}
	t.First, t.Last, t.AtTime = first[0], now.LastSeq, now.LastAt
	if t.At == 0 || t.At >= t.Last {
		return nil
	}
	e, err := streams.Get(ctx, c.opts.JS, c.opts.Stream, t.At)
	if errors.Is(err, streams.ErrNotFound) || errors.Is(err, streams.ErrMalformed) {
		err = nil // there is no event, or it was erased
	}
	t.AtTime = e.At
	return err
}

// gaps returns the periods after its first confirmation in which the page was not
// subscribed, the oldest first.
func (c *Console) gaps(page pages.Page) (out []gap, err error) {
	sub, err := c.opts.Operator.Subscription(page)
	if err != nil || sub == nil {
		return nil, err
	}
	return gapsOf(sub.History), nil
}

// minGap is the minimum duration of a gap that is shown. Shorter ones are normal, as
// subscribing again takes two calls.
const minGap = time.Minute

func gapsOf(history []subscriptions.Transition) (out []gap) {
	var open *gap
	confirmed := false
	for _, t := range history {
		switch {
		case t.To == subscriptions.Confirmed:
			if open != nil {
				if open.To = t.At; open.To.Sub(open.From) >= minGap {
					out = append(out, *open)
				}
			}
			open, confirmed = nil, true
		case confirmed && open == nil:
			open = &gap{From: t.At, Why: cmp.Or(t.Reason, "subscription "+string(t.To))}
		}
	}
	if open != nil {
		out = append(out, *open)
	}
	return out
}

// itemsOf inserts days and gaps between the messages. A gap is inserted before the
// first message after its start.
func itemsOf(list []conversations.Message, gaps []gap) (out []item) {
	day := ""
	if len(list) > 0 { // earlier gaps are shown with earlier messages
		gaps = slices.DeleteFunc(gaps, func(g gap) bool { return g.From.Before(list[0].Time) })
	}
	for i := range list {
		m := &list[i]
		for len(gaps) > 0 && !m.Time.Before(gaps[0].From) {
			out, gaps = append(out, item{Gap: &gaps[0]}), gaps[1:]
		}
		if d := m.Time.UTC().Format("Monday, 2 January 2006"); d != day {
			out, day = append(out, item{Day: d}), d
		}
		out = append(out, item{Message: m})
	}
	for i := range gaps {
		out = append(out, item{Gap: &gaps[i]})
	}
	return out
}

// reply serves POST /conversations/{page}/{contact}/reply: it sends a text as the page.
func (c *Console) reply(w http.ResponseWriter, r *http.Request) error {
	text := strings.TrimSpace(r.PostForm.Get("text"))
	switch {
	case text == "":
		return c.showThread(w, r, http.StatusUnprocessableEntity, "", "Write something first.", "")
	case len([]rune(text)) > maxReply:
		failed := fmt.Sprintf("Meta accepts at most %d characters.", maxReply)
		return c.showThread(w, r, http.StatusUnprocessableEntity, "", failed, text)
	}
	message, err := json.Marshal(map[string]string{"text": text})
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	m := outbound.Request{Page: pageOf(r), Contact: contactOf(r), Message: message, MessagingType: "RESPONSE"}
	if r.PostForm.Get("human") != "" {
		m.MessagingType, m.Tag = "MESSAGE_TAG", humanTag
	}
	extend(w)
	sent, err := c.opts.Operator.Send(r.Context(), m)
	if err != nil {
		return c.showThread(w, r, http.StatusUnprocessableEntity, "", "Not sent: "+err.Error(), text)
	}
	if sent.Warning != "" {
		return c.showThread(w, r, http.StatusOK, "", "Sent, but not recorded yet: "+sent.Warning+" Don't send it again.", "")
	}
	ctx, cancel := context.WithTimeout(r.Context(), modelWait)
	defer cancel()
	_ = c.opts.Conversations.WaitFor(ctx, sent.Seq) // a read model that lags is shown as it is
	return c.showThread(w, r, http.StatusOK, "Sent.", "", "")
}
