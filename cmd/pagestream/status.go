package main

import (
	"fmt"
	"net/http"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
)

// StatusCommand shows what a running server is doing.
type StatusCommand struct{}

// Run prints the server's status.
func (StatusCommand) Run(c *CLI) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	var s api.Status
	if err := cl.do(c.ctx, http.MethodGet, "/api/v1/status", nil, nil, &s); err != nil {
		return err
	}
	return c.Print(s, func() {
		ready := "ready"
		if !s.Ready {
			ready = "NOT READY"
		}
		fmt.Fprintf(c.Out, "pagestream %s, up %s, %s\n", s.Version, time.Since(s.Started).Round(time.Second), ready)
		for _, r := range s.Reasons {
			fmt.Fprintf(c.Out, "  %s\n", r)
		}
		fmt.Fprintf(c.Out, "stream %s: %d events, sequence %d to %d, %.1f MiB\n\n",
			s.Stream.Name, s.Stream.Events, s.Stream.FirstSeq, s.Stream.LastSeq, float64(s.Stream.Bytes)/(1<<20))
		writeProjections(c, s.Projections)
	})
}
