package api

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/operate"
)

var update = flag.Bool("update", false, "write the page of the API")

// about has a sentence about each route. The test fails for a route that is not here.
var about = map[string]string{
	"GET /api/v1/cluster":                                 "Each stream's copies in a NATS cluster: leader, followers and their lag.",
	"POST /api/v1/cluster/scale":                          "Changes how many copies of each stream the cluster keeps.",
	"GET /api/v1/comments/{page}":                         "The comments on a page's posts, of one contact or post or in one state (`visible`, `hidden`, `removed`).",
	"GET /api/v1/comments/{page}/{comment}":               "One comment with its edits, reactions and events, also as it was.",
	"GET /api/v1/posts/{page}":                            "The posts of a page with their counts.",
	"GET /api/v1/posts/{page}/{post}":                     "One post, also as it was.",
	"GET /api/v1/companies":                               "The companies, with their names and pages.",
	"POST /api/v1/companies":                              "Makes a company known before it has a page.",
	"POST /api/v1/companies/{id}/rename":                  "Gives a company another name. Both names are accepted afterwards.",
	"GET /api/v1/consumers":                               "The consumers of events over NATS and how far they have read.",
	"POST /api/v1/consumers":                              "Makes a consumer. The answer has its seed, once.",
	"POST /api/v1/consumers/{name}/rewind":                "Lets a consumer read again from an event or a time on.",
	"DELETE /api/v1/consumers/{name}":                     "Removes a consumer and its user.",
	"GET /api/v1/pages/{id}/conversations":                "The conversations of a page, latest activity first.",
	"GET /api/v1/conversations/{page}/{contact}":          "One conversation.",
	"GET /api/v1/conversations/{page}/{contact}/messages": "The messages of a conversation, also as they were.",
	"GET /api/v1/conversations/{page}/{contact}/events":   "The events that made a conversation, or with `mid` one message.",
	"GET /api/v1/deadletters":                             "Events that a read model or a reactor could not apply, and those that wait behind them.",
	"POST /api/v1/deadletters":                            "Applies dead letters again (`redrive`), or gives them up (`discard`, with a `reason`).",
	"GET /api/v1/events":                                  "Events as JSON, with `?order=newest` the newest first, with `?since=` and `?until=` those that were stored in that time. With `Accept: text/event-stream` they are sent live: see [the feed](consumers.md#over-http).",
	"GET /api/v1/events/{seq}":                            "One event with all its data.",
	"GET /api/v1/schemas":                                 "The event types.",
	"GET /api/v1/schemas/{type}":                          "The JSON Schema of the data of a type's events.",
	"GET /api/v1/export":                                  "Events as a file, one CloudEvent a line.",
	"POST /api/v1/backup":                                 "Copies streams, keys and configuration while the server runs.",
	"GET /api/v1/history":                                 "What operators did, newest first.",
	"GET /api/v1/hooks":                                   "The endpoints of signed webhooks and their positions.",
	"GET /api/v1/hooks/{name}/deadletters":                "The events that an endpoint did not accept.",
	"POST /api/v1/hooks/{name}/redrive":                   "Sends an endpoint's dead letters again, one (`event`) or `all`.",
	"POST /api/v1/hooks/{name}/enable":                    "Enables a disabled endpoint, and tries all pages at once.",
	"GET /api/v1/keys":                                    "The ids of the keys that seal page tokens.",
	"POST /api/v1/keys/rotate":                            "Makes a new key and seals every token with it.",
	"POST /api/v1/keys/{id}/retire":                       "Seals what still uses an old key with the one in use, and removes the old one.",
	"POST /api/v1/invites":                                "Makes a link that connects pages in a browser.",
	"POST /api/v1/pages/{id}/forget":                      "Removes a page that is not connected, and what was received for it, from the read models. Its events stay.",
	"POST /api/v1/pages/{id}/test":                        "Marks a page that was never connected as one of a test.",
	"POST /api/v1/apps/setup":                             "Sets the callback URL, verify token and fields of an app at Meta, and says what it lacked before and after; `dry_run` only compares. The object instagram is set if a connected page uses it, or with `instagram`; another callback URL at Meta is only replaced with `replace`.",
	"POST /api/v1/logins":                                 "Lists the pages that a user token may connect. It connects none.",
	"POST /api/v1/logins/{id}":                            "Connects pages of that list.",
	"GET /api/v1/losses":                                  "Which events the stream has lost, and the messages of them that are still held, 500 at a time.",
	"POST /api/v1/losses/accept":                          "Accepts the loss, which is on record and allows rebuilds.",
	"POST /api/v1/pages/{id}/messages":                    "Sends a message as a page.",
	"POST /api/v1/pages/{id}/backfill":                    "Reads the messages of a gap from Meta's history.",
	"POST /api/v1/pages/{id}/adopt":                       "Makes events that another app delivered for a page the page's own.",
	"POST /api/v1/conversations/{page}/{contact}/erase":   "Removes a person from the stream and the read models. This can't be undone.",
	"POST /api/v1/conversations/{page}/{contact}/export":  "Writes what is held on a person to a directory of the server's machine.",
	"GET /api/v1/erasures":                                "The erasures, and which consumers and webhooks have acknowledged them.",
	"GET /api/v1/pages":                                   "Every known page with its company, connection, subscription and state.",
	"POST /api/v1/pages":                                  "Connects a page with its page token.",
	"GET /api/v1/pages/{id}":                              "One page.",
	"GET /api/v1/pages/{id}/subscription":                 "The wanted and the actual fields of a page, and the steps that led there.",
	"POST /api/v1/pages/{id}/check":                       "Compares the wanted fields with those that Graph lists.",
	"POST /api/v1/pages/{id}/resubscribe":                 "Subscribes a page again and reads back.",
	"POST /api/v1/pages/{id}/disconnect":                  "Unsubscribes a page and removes its connection. Its events are kept.",
	"GET /api/v1/doctor":                                  "What is wrong with pages and the installation, why, and how to fix it. It asks Graph.",
	"GET /api/v1/reconcile":                               "The state of the checks of all pages.",
	"GET /api/v1/projections":                             "The read models and their positions.",
	"POST /api/v1/projections/{name}/rebuild":             "Builds a read model from the stream, beside the live one.",
	"POST /api/v1/projections/{name}/verify":              "Compares a read model with a replay of the stream.",
	"POST /api/v1/projections/{name}/explain":             "Names the events that made a row.",
	"POST /api/v1/audit":                                  "Compares the whole stream with what the endpoints counted and with every read model; with `full` all rows.",
	"GET /api/v1/status":                                  "What the server is doing.",
	"GET /api/v1/tokens":                                  "The tokens that were made, and their last use.",
	"POST /api/v1/tokens":                                 "Makes a token. The answer has it, once.",
	"DELETE /api/v1/tokens/{name}":                        "Ends a token at once.",
}

// may has the words for who may call a route.
var may = map[access]string{
	toAdmins: "admin", toReaders: "admin, reader", toCompanies: "admin, reader, company",
	toSenders: "admin, company with `--send`", toMetrics: "admin, reader, metrics",
}

// problemFields says what each field of a problem is.
var problemFields = map[string]string{
	"title": "the status in words", "status": "the HTTP status",
	"detail":  "what is wrong and what to do about it; never a token, a secret or the text of a message",
	"code":    "Graph's error code, if Graph refused",
	"subcode": "Graph's subcode", "fbtrace": "Graph's trace id, for Meta's support",
	"retry_after": "seconds after which to try again; also the header Retry-After",
}

// pageHead is what the page says before the routes.
const pageHead = `# API

<!-- ` + "`task gen:docs`" + ` writes this page from the routes of internal/api; their sentences are in its page_test.go. -->

The API is on the private listener (` + "`http.private`" + `), below ` + "`/api/v1`" + `. A request sends a token as
` + "`Authorization: Bearer …`" + `: the admin token, which is in the file that ` + "`http.token_file`" + ` names, the read-only one
(` + "`http.read_token_file`" + `), or one that ` + "`tokens add`" + ` made. ` +
	"[Security](../SECURITY.md) says what each may do.\n" + `
- Lists are ` + "`{\"items\": […], \"next\": \"…\"}`" + `; send ` + "`next`" + ` back as ` + "`?cursor=`" + `. ` +
	"`limit` is 50 if it is not given, and at most 1,000.\n" +
	`- ` + "`min_seq=N`" + ` waits up to 10 s until the read model has applied event N, so that you can read your own writes.
- ` + "`at_seq` and `at_time`" + ` read a past state: after that event, or at that time.
- A parameter or field that is unknown, empty or repeated is refused with 400, and the nearest name is in the answer.
  A parameter with … may be repeated, or have several values with commas. An absent filter never widens a request that
  gives data to others or changes pages: ask for all of them with ` + "`\"all\": true`" + `.
- What changes anything is in the history under its verb; the answer has the entry's id in ` + "`X-Request-Id`" + `.
- Long requests (audit, rebuild, backup …) answer lines of JSON, ` + "`application/x-ndjson`" + `: any number with
  ` + "`progress`, then one with `result` or `error`" + `. They end when the client disconnects, at most after 6 hours.

## Routes

| route | parameters or body | who | verb | what |
|---|---|---|---|---|
`

// apiPage returns the page of the API: its routes, and the form of its errors.
func apiPage(t *testing.T) string {
	t.Helper()
	s := New(Options{Tokens: fileTokens(t), Operator: &fakeOperator{}, Metrics: http.NotFoundHandler()})
	base := serveAPI(t, &fakeOperator{})
	var b strings.Builder
	b.WriteString(pageHead)
	cell := strings.NewReplacer("|", `\|`, "\n", " ").Replace
	routes := s.routes()
	byPath := func(x, y string) int {
		xm, xp, _ := strings.Cut(x, " ")
		ym, yp, _ := strings.Cut(y, " ")
		return strings.Compare(xp+" "+xm, yp+" "+ym)
	}
	for _, pattern := range slices.SortedFunc(maps.Keys(routes), byPath) {
		route := routes[pattern]
		assert.NotEmpty(t, about[pattern], "say in page_test.go what %s does", pattern)
		method, path, _ := strings.Cut(pattern, " ")
		var takes []string
		for _, p := range route.params {
			takes = append(takes, "`"+strings.Replace(p, many, "…", 1)+"`")
		}
		if route.body { // the answer to another body says what the body is
			resp, body := call(t, method, base+pathValues.Replace(path), "[]")
			var p Problem
			require.NoError(t, json.Unmarshal([]byte(body), &p), body)
			require.Equal(t, http.StatusBadRequest, resp.StatusCode)
			takes = append(takes, cell(strings.TrimPrefix(p.Detail, "send ")))
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s |\n", pattern, strings.Join(takes, ", "), may[route.allow],
			strings.ReplaceAll("`"+route.verb+"`", "``", ""), about[pattern])
	}
	for pattern := range about {
		assert.Contains(t, routes, pattern, "page_test.go has a sentence about it")
	}
	fmt.Fprintf(&b, `
Beside the API, the private listener has `+"`GET /metrics`"+` (%s), and without a token `+"`GET /healthz`"+` (200 while the
process runs) and `+"`GET /readyz`"+` (200 when deliveries can be stored and every read model is running and near the head;
otherwise 503 and the reason). The [console](console.md) is at `+"`/`"+`. [Webhooks and login](webhooks.md#what-the-public-listener-answers)
are on the public listener.

## Errors

An error is a problem of RFC 9457, `+"`application/problem+json`"+`:

| field | what |
|---|---|
`, may[toMetrics])
	for f := range reflect.TypeFor[Problem]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		require.NotEmpty(t, problemFields[name], "say in page_test.go what the field %s is", name)
		fmt.Fprintf(&b, "| `%s` | %s |\n", name, problemFields[name])
	}
	b.WriteString("\n| status | when |\n|---|---|\n")
	when := map[int]string{
		http.StatusBadRequest:          "a parameter, a field or the body is not one that the route takes",
		http.StatusUnauthorized:        "there is no valid token",
		http.StatusForbidden:           "the token does not permit this",
		http.StatusNotFound:            "there is no such thing, or it is another company's",
		http.StatusMethodNotAllowed:    "the path has other methods; they are in the header Allow",
		http.StatusMisdirectedRequest:  "the host name is none of the listener's: add it to `http.private_hosts`",
		http.StatusTooManyRequests:     "Graph wants fewer calls, or this address sent too many wrong tokens; see `retry_after`",
		http.StatusInternalServerError: "the cause is in the server's log",
		http.StatusServiceUnavailable:  "a read model is being built again after damage or is behind `min_seq`; try again",
		http.StatusGatewayTimeout:      "it took too long; try again",
		statuses[operate.Refused]:      "Graph, or a rule of pagestream, refused what was asked",
		statuses[operate.Busy]:         "something else is doing this now",
		statuses[operate.Failed]:       "Graph could not be reached or the operation failed",
	}
	for _, status := range slices.Sorted(maps.Keys(when)) {
		fmt.Fprintf(&b, "| %d %s | %s |\n", status, http.StatusText(status), when[status])
	}
	return b.String()
}

// TestAPIPage compares the page of the API with the routes. Write it with -update.
func TestAPIPage(t *testing.T) {
	name := filepath.Join("..", "..", "docs", "api.md")
	want := apiPage(t)
	if *update {
		require.NoError(t, os.WriteFile(name, []byte(want), 0o644))
		return
	}
	got, err := os.ReadFile(name)
	require.NoError(t, err)
	require.Equal(t, want, string(got), "the page is old: task gen:docs")
}
