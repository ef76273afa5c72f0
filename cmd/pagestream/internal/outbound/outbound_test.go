package outbound

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/graph"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
	"github.com/pagestream/pagestream/projections/conversations"
	"github.com/pagestream/pagestream/projections/projectionstest"
	"github.com/pagestream/pagestream/streams"
)

const (
	page   = domain.PageID("104")
	psid   = domain.ContactID("7001")
	token  = "EAAsecretsecretsecret"
	secret = "meet me at the station"
)

// fakeGraph is a fake of Graph and of the tokens.
type fakeGraph struct {
	mu           sync.Mutex
	access       meta.Access
	denied       error
	fail         error
	sent         []graph.Outgoing
	noRecipient  bool   // Graph names no recipient
	beforeAnswer func() // called before Graph answers
}

func (g *fakeGraph) Access(_ context.Context, page domain.PageID) (meta.Access, error) {
	if g.denied != nil {
		return meta.Access{}, fmt.Errorf("look for %s: %w", page, g.denied)
	}
	return g.access, nil
}

func (g *fakeGraph) Send(_ context.Context, a meta.Access, m graph.Outgoing) (graph.Sent, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sent = append(g.sent, m)
	if g.beforeAnswer != nil {
		g.beforeAnswer()
	}
	switch {
	case a.Token != token || a.App != "shop" || a.Page != page:
		return graph.Sent{}, errors.New("wrong access")
	case g.fail != nil:
		return graph.Sent{}, fmt.Errorf("call graph: %w", g.fail)
	case m.SenderAction != "":
		return graph.Sent{RecipientID: string(psid)}, nil
	case g.noRecipient:
		return graph.Sent{MessageID: "m_1"}, nil
	}
	return graph.Sent{RecipientID: string(psid), MessageID: "m_1"}, nil
}

func (r *fixture) sender() (*Sender, *fakeGraph) {
	g := &fakeGraph{access: meta.Access{Page: page, Token: token, App: "shop", AppID: "55"}}
	return New(Options{
		Tokens: g, Graph: g, Publisher: r.Publisher,
		Now: func() time.Time { return time.UnixMilli(1_780_000_000_123) },
	}), g
}

func send(t *testing.T, s *Sender, r Request) (Sent, error) {
	t.Helper()
	ctx, cancel := projectionstest.Limited()
	defer cancel()
	return s.Send(ctx, r)
}

func text(s string) json.RawMessage {
	b, _ := json.Marshal(map[string]string{"text": s, "metadata": "agent-1"})
	return b
}

// echoed returns the events of Meta's delivery of the echo.
func echoed(object string, own domain.PageID) []domain.Event {
	body := fmt.Sprintf(
		`{"object":%q,"entry":[{"id":%q,"time":1780000000900,"messaging":[{"sender":{"id":%q},"recipient":{"id":%q},`+
			`"timestamp":1780000000456,"message":{"mid":"m_1","is_echo":true,"app_id":55,"text":%q,"metadata":"agent-1"}}]}]}`,
		object,
		own,
		own,
		psid,
		secret,
	)
	return messenger.Split([]byte(body), messenger.Options{App: "shop"}).Events
}

func TestEchoAfterSendIsADuplicate(t *testing.T) {
	r := newFixture(t)
	s, g := r.sender()
	sent, err := send(
		t, s, Request{Page: page, Contact: psid, Message: text(secret), MessagingType: "RESPONSE", Tag: "HUMAN_AGENT"},
	)
	require.NoError(t, err)
	assert.Equal(t, Sent{RecipientID: string(psid), MID: "m_1", Seq: 1}, sent)
	require.Len(t, g.sent, 1)
	assert.JSONEq(t, `{"id":"7001"}`, string(g.sent[0].Recipient))
	assert.JSONEq(t, string(text(secret)), string(g.sent[0].Message))
	assert.Equal(t, "RESPONSE", g.sent[0].MessagingType)
	assert.Equal(t, "HUMAN_AGENT", g.sent[0].Tag)
	receipts := r.Publish(t, echoed("page", page)...)
	assert.Equal(t, streams.ByWindow, receipts[0].Duplicate)
	assert.Equal(t, uint64(1), receipts[0].Seq)
	oneRow(t, r, page, "send")
	e := r.All(t)[0]
	assert.Equal(t, domain.DedupID("page", page, "msg", "m_1"), e.ID)
	assert.Equal(t, domain.MessageEchoed, e.Type)
	assert.Equal(t, psid, e.Contact)
	assert.Equal(t, "55", e.Data.Message.AppID)
	assert.Equal(t, "agent-1", e.Data.Message.Metadata)
	assert.Equal(t, time.UnixMilli(1_780_000_000_123).UTC(), e.Time.UTC())
}

func TestEchoBeforeSendIsKept(t *testing.T) {
	r := newFixture(t)
	s, g := r.sender()
	g.beforeAnswer = func() { r.Publish(t, echoed("page", page)...) }
	sent, err := send(t, s, Request{Page: page, Contact: psid, Message: text(secret)})
	require.NoError(t, err)
	assert.Equal(t, Sent{RecipientID: string(psid), MID: "m_1", Seq: 1, Known: true}, sent)
	oneRow(t, r, page, "webhook")
}

func oneRow(t *testing.T, r *fixture, own domain.PageID, source string) {
	t.Helper()
	require.Len(t, r.All(t), 1)
	list, _, err := conversations.Messages(r.Named("conversations"), own, psid, "", 0, false)
	require.NoError(t, err)
	require.Len(t, list, 1)
	assert.Equal(t, secret, list[0].Text)
	assert.Equal(t, conversations.Out, list[0].Direction)
	assert.Equal(t, source, list[0].Source)
	assert.Zero(t, list[0].Conflicts)
}

func TestSendAsInstagramAccount(t *testing.T) {
	r := newFixture(t)
	s, g := r.sender()
	const account = domain.PageID("17841400000000001")
	g.access.Instagram = account
	sent, err := send(t, s, Request{Page: account, Contact: psid, Message: text(secret)})
	require.NoError(t, err)
	receipts := r.Publish(t, echoed("instagram", account)...)
	assert.Equal(t, sent.Seq, receipts[0].Seq)
	assert.NotEqual(t, streams.NotDuplicate, receipts[0].Duplicate)
	oneRow(t, r, account, "send")
	assert.Empty(t, r.All(t)[0].Data.Message.AppID)
}

func TestAttachmentsAndRepliesAreKept(t *testing.T) {
	r := newFixture(t)
	s, g := r.sender()
	recipient := json.RawMessage(`{"comment_id":"12_34"}`)
	_, err := send(t, s, Request{Page: page, Recipient: recipient, Message: json.RawMessage(
		`{"mid":"mine","is_deleted":true,"attachment":{"type":"image","payload":{"url":"https://a.example/1.png"}},"quick_replies":[{"title":"Yes"}]}`,
	)})
	require.NoError(t, err)
	assert.Equal(t, recipient, g.sent[0].Recipient)
	e := r.All(t)[0]
	assert.Equal(t, domain.MessageEchoed, e.Type)
	assert.Equal(t, psid, e.Contact, "Graph says who it went to")
	assert.Equal(t, "m_1", e.Data.Message.MID)
	assert.False(t, e.Data.Message.Deleted)
	assert.Equal(t, []domain.Attachment{{Type: "image", URL: "https://a.example/1.png"}}, e.Data.Message.Attachments)
	assert.Contains(t, string(e.Data.Raw), "quick_replies")
}

func TestActionsAndIncompleteAnswersAreNotRecorded(t *testing.T) {
	r := newFixture(t)
	s, g := r.sender()
	sent, err := send(t, s, Request{Page: page, Recipient: json.RawMessage(`{"id":7001}`), SenderAction: "typing_on"})
	require.NoError(t, err)
	assert.Equal(t, Sent{RecipientID: string(psid)}, sent)
	g.noRecipient = true
	sent, err = send(t, s, Request{Page: page, Recipient: json.RawMessage(`{"user_ref":"box"}`), Message: text(secret)})
	require.NoError(t, err)
	assert.Equal(t, Sent{MID: "m_1"}, sent)
	assert.Empty(t, r.All(t))
	// An id may be a JSON number or a string.
	sent, err = send(t, s, Request{Page: page, Recipient: json.RawMessage(`{"id":7001}`), Message: text(secret)})
	require.NoError(t, err)
	assert.Equal(t, uint64(1), sent.Seq)
	assert.Equal(t, psid, r.All(t)[0].Contact)
}

func TestGraphErrors(t *testing.T) {
	for name, test := range map[string]struct {
		fail   error
		unsure bool
	}{
		"outside the window": {&meta.Error{Code: 10}, false},
		"person unavailable": {&meta.Error{Code: 551}, false},
		"dead token":         {&meta.Error{Code: 190}, false},
		"throttled":          {&meta.Error{Code: 613, After: time.Minute}, false},
		"throttled, unsaid":  {&meta.Error{Code: 80006}, false},
		"status 429":         {&meta.Error{Status: http.StatusTooManyRequests}, false},
		"held back":          {&meta.Error{Held: true, After: time.Minute}, false},
		"no such app":        {meta.ErrNotConnected, false},
		"not a page":         {graph.ErrPageID, false},
		"not a message":      {graph.ErrMessage, false},
		"service":            {&meta.Error{Code: 2}, true},
		"status 500":         {&meta.Error{Status: http.StatusInternalServerError}, true},
		"no answer":          {io.ErrUnexpectedEOF, true},
		"too late":           {context.DeadlineExceeded, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newFixture(t)
			s, g := r.sender()
			g.fail = test.fail
			sent, err := send(t, s, Request{Page: page, Contact: psid, Message: text(secret)})
			assert.Equal(t, Sent{}, sent)
			require.ErrorIs(t, err, test.fail, "as it is")
			assert.Equal(t, test.unsure, errors.Is(err, ErrUnsure))
			assert.Equal(t, strings.HasPrefix(name, "not a "), errors.Is(err, ErrRequest))
			require.NotErrorIs(t, err, ErrNotRecorded)
			assert.Len(t, g.sent, 1, "sent once at most")
			assert.NotContains(t, err.Error(), token)
			assert.NotContains(t, err.Error(), secret)
			assert.Empty(t, r.All(t))
		})
	}
}

func TestPagesWithoutAccess(t *testing.T) {
	r := newFixture(t)
	s, g := r.sender()
	for _, denied := range []error{meta.ErrNotConnected, meta.ErrTokenDead} {
		g.denied = denied
		_, err := send(t, s, Request{Page: page, Contact: psid, Message: text(secret)})
		require.ErrorIs(t, err, denied)
	}
	assert.Empty(t, g.sent)
}

func TestInvalidRequests(t *testing.T) {
	r := newFixture(t)
	s, g := r.sender()
	to := json.RawMessage(`{"id":"7001"}`)
	for name, request := range map[string]Request{
		"no page":           {Contact: psid, Message: text("hi")},
		"page of none":      {Page: domain.NoPage, Contact: psid, Message: text("hi")},
		"noRecipient":       {Page: page, Message: text("hi")},
		"twice":             {Page: page, Contact: psid, Recipient: to, Message: text("hi")},
		"nothing":           {Page: page, Contact: psid},
		"message and act":   {Page: page, Contact: psid, Message: text("hi"), SenderAction: "typing_on"},
		"message of words":  {Page: page, Contact: psid, Message: json.RawMessage(`"hi"`)},
		"message of null":   {Page: page, Contact: psid, Message: json.RawMessage(`null`)},
		"message, no JSON":  {Page: page, Contact: psid, Message: json.RawMessage(`{"text":`)},
		"recipient of list": {Page: page, Recipient: json.RawMessage(`[1]`), Message: text("hi")},
		"recipient empty":   {Page: page, Recipient: json.RawMessage(`{}`), Message: text("hi")},
	} {
		_, err := send(t, s, request)
		require.ErrorIs(t, err, ErrRequest, name)
	}
	assert.Empty(t, g.sent)
}

// broken is a stream that stores nothing.
type broken struct{}

func (broken) Publish(context.Context, []domain.Event) ([]streams.Receipt, error) {
	return nil, streams.ErrUnavailable
}

func TestSentButNotRecorded(t *testing.T) {
	g := &fakeGraph{access: meta.Access{Page: page, Token: token, App: "shop"}}
	sent, err := send(
		t, New(Options{Tokens: g, Graph: g, Publisher: broken{}}),
		Request{Page: page, Contact: psid, Message: text(secret)},
	)
	assert.Equal(t, Sent{RecipientID: string(psid), MID: "m_1"}, sent)
	require.ErrorIs(t, err, ErrNotRecorded)
	require.ErrorIs(t, err, streams.ErrUnavailable)
	assert.NotErrorIs(t, err, ErrUnsure)
}

func TestSentMessageIsRecordedAfterCancel(t *testing.T) {
	r := newFixture(t)
	s, g := r.sender()
	ctx, cancel := projectionstest.Limited()
	defer cancel()
	g.beforeAnswer = cancel
	sent, err := s.Send(ctx, Request{Page: page, Contact: psid, Message: text(secret)})
	require.NoError(t, err)
	assert.Equal(t, uint64(1), sent.Seq)
}

func TestNewPanicsWithoutRequiredOptions(t *testing.T) {
	assert.Panics(t, func() { New(Options{}) })
}
