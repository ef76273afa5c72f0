package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// EventsExplainCommand says which events made a conversation or a message.
type EventsExplainCommand struct {
	Page    string `arg:"" help:"Page id."`
	Contact string `arg:"" help:"Contact id."`
	MID     string `name:"mid" placeholder:"ID" env:"PAGESTREAM_EVENTS_EXPLAIN_MID" help:"Only the message with this id."`
	Limit   int    `default:"100" env:"PAGESTREAM_EVENTS_EXPLAIN_LIMIT" help:"At most this many; 0 for all."`
}

// Run prints the events in order, without their text.
func (e EventsExplainCommand) Run(c *CLI) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	query := url.Values{}
	if e.MID != "" {
		query.Set("mid", e.MID)
	}
	path := "/api/v1/conversations/" + url.PathEscape(e.Page) + "/" + url.PathEscape(e.Contact) + "/events"
	seqs, err := collect[uint64](c.ctx, cl, path, query, e.Limit)
	if err != nil {
		return err
	}
	events := make([]eventLine, len(seqs))
	for i, seq := range seqs {
		if err := cl.do(c.ctx, http.MethodGet, "/api/v1/events/"+strconv.FormatUint(seq, 10), nil, nil, &events[i]); err != nil {
			return err
		}
	}
	return c.Print(events, func() {
		for _, line := range events {
			line.write(c.Out)
		}
		if len(events) == 0 {
			fmt.Fprintln(c.Out, "No event has made it.")
		}
	})
}
