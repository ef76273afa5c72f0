package cli

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/history"
)

// HistoryCommand lists what operators did.
type HistoryCommand struct {
	Since string `placeholder:"WHEN" env:"PAGESTREAM_HISTORY_SINCE" help:"Since a time (2026-11-23T10:00:00Z), or a duration before now (2h, 24h)."`
	Who   string `placeholder:"TOKEN" env:"PAGESTREAM_HISTORY_WHO" help:"Name of the token: file:admin is that of http.token_file."`
	Verb  string `placeholder:"VERB" env:"PAGESTREAM_HISTORY_VERB" help:"Verb, as listed: pages_connect, send, erase, tokens_revoke, …"`
	On    string `placeholder:"NAME" env:"PAGESTREAM_HISTORY_ON" help:"Page, contact, consumer, token, … that it was about."`
	Limit int    `default:"50" placeholder:"N" env:"PAGESTREAM_HISTORY_LIMIT" help:"At most this many; 0 lists all."`
}

// Run prints a table, the newest first.
func (h HistoryCommand) Run(c *CLI) error {
	query := url.Values{}
	since, err := parseTime(h.Since, time.Now())
	if err != nil {
		return err
	}
	if !since.IsZero() {
		query.Set("since", since.UTC().Format(time.RFC3339Nano))
	}
	for name, value := range map[string]string{"who": h.Who, "verb": h.Verb, "on": h.On} {
		if value != "" {
			query.Set(name, value)
		}
	}
	list, err := collect[history.Entry](c, "/api/v1/history", query, h.Limit)
	return c.answer(list, err, func() {
		writeTable(c, "TIME, WHO, FROM, VERB, OUTCOME, ON", list, func(e history.Entry) cells {
			var on []string
			for _, kind := range slices.Sorted(maps.Keys(e.On)) {
				on = append(on, kind+"="+inLine(e.On[kind]))
			}
			outcome := string(e.Outcome)
			if e.Outcome != history.OK {
				outcome = fmt.Sprintf("%s (%d)", outcome, e.Status)
			}
			return cells{e.Time.UTC().Format(time.DateTime), e.Who, e.From, e.Verb, outcome, dash(strings.Join(on, " "))}
		})
	})
}
