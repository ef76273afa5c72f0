package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/api"
)

// refusal is an answer of the server that it did not do what was asked. Its text is for a person: what happened and
// what to type next, without the words of HTTP.
type refusal struct{ api.Problem }

// Error returns the detail. Of what Graph refused it leaves out the request and the status, which the server's log has.
func (r refusal) Error() string {
	return graphRequest.ReplaceAllString(r.Detail, "Meta refused it ($1)")
}

// graphRequest matches what an error of Graph begins with.
var graphRequest = regexp.MustCompile(`(?:[A-Z]+ /\S*: )?graph refused \(status \d+, (code [0-9/]+)\)`)

// Unwrap returns the problem as the server sent it.
func (r refusal) Unwrap() error { return r.Problem }

// refused returns the error for an answer with a status of 300 or more. A problem without a detail is not from
// pagestream's API.
func (c *Client) refused(status int, p api.Problem) error {
	p.Status = status
	switch {
	case status == http.StatusUnauthorized:
		p.Detail = fmt.Sprintf("the server at %s does not know the token in %s; set the file with its token with --token-file",
			c.base, c.tokenFile)
	case status == http.StatusNotFound && strings.HasSuffix(p.Detail, "in this API"):
		p.Detail = fmt.Sprintf("the server at %s is of another version, which can't do this; compare: pagestream version, "+
			"pagestream status", c.base)
	case p.Detail != "" && p.Title != "":
	case status >= http.StatusInternalServerError:
		p.Detail = fmt.Sprintf("the server at %s can't answer now; try again, and look at its log", c.base)
	default:
		p.Detail = fmt.Sprintf("what answers at %s is not the private listener of pagestream; set its address with --server",
			c.base)
	}
	return refusal{p}
}

// unanswered returns the error for a request without an answer.
func (c *Client) unanswered(ctx context.Context, err error) error {
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err // without the method and the address
	}
	var op *net.OpError
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("interrupted: %w", ctx.Err())
	case errors.As(err, &op) && op.Op == "dial":
		return fmt.Errorf("no server is running at %s; start one with: pagestream serve\nIf it runs elsewhere, "+
			"name its configuration with -c FILE or PAGESTREAM_CONFIG, or its address with --server http://host:port", c.base)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the server at %s did not answer within %s; it may still do it; look with: pagestream status: %w",
			c.base, requestTimeout, err)
	}
	return fmt.Errorf("the connection to the server at %s was lost; is it still running? Try: pagestream status: %w", c.base, err)
}

// isNotFound reports whether the server answered that there is no such thing.
func isNotFound(err error) bool { return isStatus(err, http.StatusNotFound) }

// isGone reports whether the server answered that the thing was erased.
func isGone(err error) bool { return isStatus(err, http.StatusGone) }

func isStatus(err error, status int) bool {
	var r refusal
	return errors.As(err, &r) && r.Status == status
}
