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

// Problem is an error answer, RFC 9457 problem details. Detail says what to do
// about it; it never has a token, a secret or the text of a message.
type Problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	// Code, Subcode and FBTrace are Graph's, where it refused.
	Code    int    `json:"code,omitempty"`
	Subcode int    `json:"subcode,omitempty"`
	FBTrace string `json:"fbtrace,omitempty"`
	// RetryAfter is in seconds, and stands in the header too.
	RetryAfter int `json:"retry_after,omitempty"`
}

func (p Problem) Error() string { return p.Title + ": " + p.Detail }

func problem(status int, detail string) Problem {
	return Problem{Title: http.StatusText(status), Status: status, Detail: detail}
}

// statuses are those of the kinds of a verb's error.
var statuses = map[operate.Kind]int{
	operate.Failed: http.StatusBadGateway, operate.Refused: http.StatusUnprocessableEntity,
	operate.Unknown: http.StatusNotFound, operate.Busy: http.StatusConflict,
}

// verbFailed answers the error of a verb: its kind is the status, and a refusal by
// Graph goes on as it came, with 429 for a rate limit.
func verbFailed(doing string, err error) Problem {
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

// writeJSON answers with v. It fails, with nothing answered, where v can't be encoded.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	writeRaw(w, status, &b)
	return nil
}

// writeRaw answers with JSON as it is.
func writeRaw(w http.ResponseWriter, status int, b *bytes.Buffer) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = b.WriteTo(w) // an error means that the client is gone
}

// answer writes what a verb came to, or its error.
func answer[T any](w http.ResponseWriter, doing string, status int, out T, err error) error {
	if err != nil {
		return verbFailed(doing, err)
	}
	return writeJSON(w, status, out)
}

// List is one page of a listing. Next is the cursor of the page after it, empty at
// the end; it is opaque, and is passed back as ?cursor=.
type List[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

// errCursor answers a cursor that is no list's.
var errCursor = problem(http.StatusBadRequest, "cursor is not one that this listing gave; start without")

// listed writes one page of a listing, or its error.
func listed[T any](w http.ResponseWriter, doing string, items []T, next string, err error) error {
	if errors.Is(err, projections.ErrCursor) {
		return errCursor
	}
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return writeJSON(w, http.StatusOK, List[T]{Items: items, Next: next})
}

// maxRequest bounds the body of a request to the API.
const maxRequest = 1 << 20

// decode reads a request's body. The decoder's words may quote it, and it may have a
// token in it, so they are not passed on.
func decode(w http.ResponseWriter, r *http.Request, in any, usage string) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	d.DisallowUnknownFields()
	if err := d.Decode(in); err != nil {
		return problem(http.StatusBadRequest, "send "+usage)
	}
	return nil
}
