package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
	"github.com/pagestream/pagestream/projections"
)

// Problem is an error response: the problem details of RFC 9457. Detail says what to
// do about it; it never contains a token, a secret or the text of a message.
type Problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	// Code, Subcode and FBTrace are from Graph's error, if Graph refused.
	Code    int    `json:"code,omitempty"`
	Subcode int    `json:"subcode,omitempty"`
	FBTrace string `json:"fbtrace,omitempty"`
	// RetryAfter is in seconds. It is also sent as the Retry-After header.
	RetryAfter int `json:"retry_after,omitempty"`
}

// Error returns the title and the detail.
func (p Problem) Error() string { return p.Title + ": " + p.Detail }

func problem(status int, detail string) Problem {
	return Problem{Title: http.StatusText(status), Status: status, Detail: detail}
}

// statuses maps the kinds of a verb's error to HTTP statuses.
var statuses = map[operate.Kind]int{
	operate.Failed: http.StatusBadGateway, operate.Refused: http.StatusUnprocessableEntity,
	operate.Unknown: http.StatusNotFound, operate.Busy: http.StatusConflict,
}

// Bounds of the seconds after which a client may read a damaged read model again.
const (
	minDamagedRetry = 2
	maxDamagedRetry = 60
)

// damagedProblem returns the problem of a read model that can't be read before it has been
// built again.
func damagedProblem(d *projections.DamagedError) Problem {
	p := problem(http.StatusServiceUnavailable, d.Error()+"; try again later; pagestream status shows how far it is")
	p.RetryAfter = min(max(int(math.Ceil(d.Left.Seconds())), minDamagedRetry), maxDamagedRetry)
	return p
}

// verbProblem returns the problem for the error of a verb. The error's kind determines
// the status. A refusal by Graph is passed on with its codes; a rate limit is 429.
func verbProblem(doing string, err error) Problem {
	var damaged *projections.DamagedError
	if errors.As(err, &damaged) {
		return damagedProblem(damaged)
	}
	p := problem(statuses[operate.KindOf(err)], fmt.Sprintf("%s: %v", doing, err))
	if g := meta.Refused(err); g != nil {
		if g.After > 0 {
			p.Status, p.Title = http.StatusTooManyRequests, http.StatusText(http.StatusTooManyRequests)
			p.RetryAfter = int(math.Ceil(g.After.Seconds()))
		}
		p.Code, p.Subcode, p.FBTrace = g.Code, g.Subcode, g.FBTrace
	}
	return p
}

func writeProblem(w http.ResponseWriter, p Problem) {
	w.Header().Set("Content-Type", "application/problem+json")
	if p.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(p.RetryAfter))
	}
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}

// writeJSON responds with v. If v can't be encoded it returns an error and writes
// nothing.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("encode response: %w", err)
	}
	writeRaw(w, status, &b)
	return nil
}

// writeRaw responds with JSON that is already encoded.
func writeRaw(w http.ResponseWriter, status int, b *bytes.Buffer) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = b.WriteTo(w) // an error means that the client is gone
}

// writeResult responds with the result of a verb, or returns the problem for its error.
func writeResult[T any](w http.ResponseWriter, doing string, status int, out T, err error) error {
	if err != nil {
		return verbProblem(doing, err)
	}
	return writeJSON(w, status, out)
}

// List is one page of a listing. Next is the cursor of the next page, empty on the last
// one. It is opaque; clients pass it back as ?cursor=.
type List[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

// errCursor is returned when ?cursor= is not a cursor of the listing.
var errCursor = problem(http.StatusBadRequest, "cursor is not one that this listing gave; start without")

// writeList responds with one page of a listing, or returns its error.
func writeList[T any](w http.ResponseWriter, doing string, items []T, next string, err error) error {
	if errors.Is(err, projections.ErrCursor) {
		return errCursor
	}
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return writeJSON(w, http.StatusOK, List[T]{Items: items, Next: next})
}
