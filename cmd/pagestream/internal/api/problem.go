package api

import (
	"encoding/json"
	"net/http"
	"strconv"
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
	// RetryAfter is in seconds, and said in the header too.
	RetryAfter int `json:"retry_after,omitempty"`
}

func (p Problem) Error() string { return p.Title + ": " + p.Detail }

func problem(status int, detail string) Problem {
	return Problem{Title: http.StatusText(status), Status: status, Detail: detail}
}

func writeProblem(w http.ResponseWriter, p Problem) {
	w.Header().Set("Content-Type", "application/problem+json")
	if p.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(p.RetryAfter))
	}
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v)
}

// List is one page of a listing. Next is the cursor of the page after it,
// empty at the end; it is opaque, and is passed back as ?cursor=.
type List[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}
