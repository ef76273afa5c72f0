package api

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"
)

// GraphError is a refusal by Graph that is answered as it came.
type GraphError struct {
	Code, Subcode int
	// Words are Graph's own, without tokens.
	Words   string
	FBTrace string
	// RetryAfter is how long Graph wants to be left alone; 0 if this is no limit.
	RetryAfter time.Duration
	// Doing says what was asked for.
	Doing string
}

// Error has the codes and Graph's words.
func (e *GraphError) Error() string {
	return fmt.Sprintf("%s: graph refused (%d/%d): %s", e.Doing, e.Code, e.Subcode, e.Words)
}

// refusal turns an error with a [GraphError] in it into a problem: 429 for a
// limit, else 422.
func refusal(err error) (Problem, bool) {
	var g *GraphError
	if !errors.As(err, &g) {
		return Problem{}, false
	}
	p := problem(http.StatusUnprocessableEntity, g.Error())
	if g.RetryAfter > 0 {
		p = problem(http.StatusTooManyRequests, g.Error())
		p.RetryAfter = int(math.Ceil(g.RetryAfter.Seconds()))
	}
	p.Code, p.Subcode, p.FBTrace = g.Code, g.Subcode, g.FBTrace
	return p, true
}
