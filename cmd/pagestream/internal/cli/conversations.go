package cli

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/conversations"
)

// ConversationsCommand groups the commands that read conversations.
type ConversationsCommand struct {
	List ConversationsListCommand `cmd:"" help:"List conversations, latest activity first."`
	Show ConversationsShowCommand `cmd:"" help:"Show the messages of one conversation."`
}

// conversationPath returns the API path of a conversation.
func conversationPath(page PageRef, contact string) string {
	return "/api/v1/conversations/" + url.PathEscape(string(page)) + "/" + url.PathEscape(contact)
}

// ConversationsListCommand lists the conversations of one page or of all.
type ConversationsListCommand struct {
	Page  PageRef `arg:"" optional:"" help:"Page, by its id or name (default: every page)."`
	Limit int     `default:"20" env:"PAGESTREAM_CONVERSATIONS_LIMIT" help:"Maximum number, latest activity first over all pages; 0 for all."`
}

// pagesAtOnce is how many pages are read at once.
const pagesAtOnce = 8

// Run prints a table. It never shows the text of messages.
func (l ConversationsListCommand) Run(c *CLI) error {
	list, names, err := l.read(c)
	return c.answer(list, err, func() {
		if len(list) == 0 {
			fmt.Fprintln(c.Out, "There are no conversations yet.")
			return
		}
		writeTable(c, "PAGE, PAGE NAME, CONTACT, NAME, IN, OUT, LATE, LAST ACTIVITY", list,
			func(v conversations.Conversation) cells {
				return cells{
					v.Page, dash(clip(inLine(names[v.Page]), wide.names)), v.Contact, inLine(dash(v.Name)), v.In, v.Out, v.Late,
					activity(v.LastActivity),
				}
			})
	})
}

// activity formats the time of a last activity.
func activity(at time.Time) string {
	if at.IsZero() {
		return "never"
	}
	return at.Local().Format(time.DateTime) + "  " + ago(at)
}

// read returns the conversations with the latest activity, and the names of the pages. It reads as many of each page
// as it returns: all of them may be of one page.
func (l ConversationsListCommand) read(c *CLI) ([]conversations.Conversation, map[domain.PageID]string, error) {
	var of []operate.Page
	var err error
	if l.Page != "" {
		of = make([]operate.Page, 1)
		of[0], err = get[operate.Page](c, pagePath(l.Page), nil)
	} else {
		of, err = collect[operate.Page](c, pagesPath, nil, 0)
	}
	if err != nil {
		return nil, nil, err
	}
	names, list := map[domain.PageID]string{}, []conversations.Conversation{}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(pagesAtOnce)
	for _, p := range of {
		names[p.ID] = p.Name
		group.Go(func() error {
			some, err := collect[conversations.Conversation](c, pagePath(p.ID)+"/conversations", nil, l.Limit)
			mu.Lock()
			defer mu.Unlock()
			list = append(list, some...)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	slices.SortFunc(list, func(a, b conversations.Conversation) int {
		return cmp.Or(b.LastActivity.Compare(a.LastActivity), cmp.Compare(a.Page, b.Page), cmp.Compare(a.Contact, b.Contact))
	})
	if l.Limit > 0 && len(list) > l.Limit {
		list = list[:l.Limit]
	}
	return list, names, nil
}

// ConversationsShowCommand shows one conversation.
type ConversationsShowCommand struct {
	Page    PageRef `arg:"" help:"Page, by its id or name."`
	Contact string  `arg:"" help:"Contact id."`
	Limit   int     `default:"50" env:"PAGESTREAM_CONVERSATIONS_LIMIT" help:"Maximum number, newest first; 0 for all."`
	AtSeq   uint64  `name:"at-seq" placeholder:"N" env:"PAGESTREAM_CONVERSATIONS_AT_SEQ" help:"State after this event."`
	AtTime  string  `name:"at-time" placeholder:"WHEN" env:"PAGESTREAM_CONVERSATIONS_AT_TIME" help:"State at a time (2026-11-23T10:00:00Z) or a duration before now (2h)."`
}

// Run prints the messages, oldest first, with their states: the current ones, or those at a
// moment in the past.
func (s ConversationsShowCommand) Run(c *CLI) error {
	path := conversationPath(s.Page, s.Contact) + "/messages"
	query := url.Values{"order": {"newest"}}
	if s.AtSeq > 0 {
		query.Set("at_seq", strconv.FormatUint(s.AtSeq, 10))
	}
	at, err := parseTime(s.AtTime, time.Now())
	if err != nil {
		return err
	}
	if !at.IsZero() {
		query.Set("at_time", at.UTC().Format(time.RFC3339Nano))
	}
	list, err := collect[conversations.Message](c, path, query, s.Limit)
	slices.Reverse(list)
	if err == nil && len(list) == 0 {
		err = c.knownContact(s.Page, s.Contact)
	}
	return c.answer(list, err, func() {
		if len(list) == 0 {
			fmt.Fprintf(c.Out, "Page %s has no messages with contact %s.\n", s.Page, s.Contact)
		}
		for _, m := range list {
			fmt.Fprintln(c.Out, messageLine(m))
		}
	})
}

// messageLine formats one message for the terminal.
func messageLine(m conversations.Message) string {
	arrow := "→ page "
	if m.Direction == conversations.Out {
		arrow = "← page "
	}
	parts := []string{m.Time.Local().Format("2006-01-02 15:04:05"), arrow}
	switch {
	case m.Deleted:
		parts = append(parts, "(unsent)")
	case m.Kind == conversations.KindPostback:
		parts = append(parts, "["+printable(m.Title)+"]")
	case m.Text != "":
		parts = append(parts, printable(m.Text))
	}
	if m.Unsupported && !m.Deleted {
		parts = append(parts, "(unsupported message)")
	}
	for _, a := range m.Attachments {
		parts = append(parts, "<"+printable(a.Type)+">")
	}
	parts = append(parts, marks(m)...)
	return strings.Join(parts, " ")
}

// marks returns the states of a message in words: edits, reactions, receipts, lateness, standby.
func marks(m conversations.Message) []string {
	var out []string
	if len(m.Edits) > 0 && !m.Deleted {
		out = append(out, "(edited)")
	}
	for _, id := range slices.Sorted(maps.Keys(m.Reactions)) {
		r := m.Reactions[id]
		out = append(out, "("+printable(cmp.Or(r.Emoji, r.Reaction))+")")
	}
	switch {
	case !m.ReadAt.IsZero():
		out = append(out, "✓✓ read")
	case !m.DeliveredAt.IsZero():
		out = append(out, "✓ delivered")
	}
	if m.LateMillis > 0 {
		out = append(out, fmt.Sprintf("(%s late)", (time.Duration(m.LateMillis)*time.Millisecond).Round(time.Second)))
	}
	if m.Standby {
		out = append(out, "(standby)")
	}
	return out
}
