package cli

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/projections/conversations"
)

// ConversationsCommand groups the commands that read conversations.
type ConversationsCommand struct {
	List ConversationsListCommand `cmd:"" help:"List conversations, latest activity first."`
	Show ConversationsShowCommand `cmd:"" help:"Show the messages of one conversation."`
}

// conversationPath returns the API path of a conversation.
func conversationPath(page, contact string) string {
	return "/api/v1/conversations/" + url.PathEscape(page) + "/" + url.PathEscape(contact)
}

// ConversationsListCommand lists the conversations of one page or of all.
type ConversationsListCommand struct {
	Page  string `arg:"" optional:"" help:"Page id (default: every page)."`
	Limit int    `default:"20" env:"PAGESTREAM_CONVERSATIONS_LIMIT" help:"Maximum number per page; 0 for all."`
}

// Run prints a table. It never shows the text of messages.
func (l ConversationsListCommand) Run(c *CLI) error {
	ids := []string{l.Page}
	if l.Page == "" {
		all, err := collect[operate.Page](c, pagesPath, nil, 0)
		if err != nil {
			return err
		}
		ids = nil
		for _, p := range all {
			ids = append(ids, string(p.ID))
		}
	}
	list := []conversations.Conversation{}
	for _, id := range ids {
		some, err := collect[conversations.Conversation](c, pagePath(id)+"/conversations", nil, l.Limit)
		if err != nil {
			return err
		}
		list = append(list, some...)
	}
	return c.Print(list, func() {
		if len(list) == 0 {
			fmt.Fprintln(c.Out, "There are no conversations yet.")
			return
		}
		writeTable(c.Out, "PAGE, CONTACT, NAME, IN, OUT, LATE, LAST ACTIVITY", list,
			func(v conversations.Conversation) cells {
				return cells{v.Page, v.Contact, inLine(dash(v.Name)), v.In, v.Out, v.Late, ago(v.LastActivity)}
			})
	})
}

// ConversationsShowCommand shows one conversation.
type ConversationsShowCommand struct {
	Page    string `arg:"" help:"Page id."`
	Contact string `arg:"" help:"Contact id."`
	Limit   int    `default:"50" env:"PAGESTREAM_CONVERSATIONS_LIMIT" help:"Maximum number, newest first; 0 for all."`
	AtSeq   uint64 `name:"at-seq" placeholder:"N" env:"PAGESTREAM_CONVERSATIONS_AT_SEQ" help:"State after this event."`
	AtTime  string `name:"at-time" placeholder:"WHEN" env:"PAGESTREAM_CONVERSATIONS_AT_TIME" help:"State at a time (2026-11-23T10:00:00Z) or a duration before now (2h)."`
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
