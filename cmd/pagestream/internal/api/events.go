package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/names"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/sse"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/projections/pages"
	"github.com/pagestream/pagestream/streams"
)

func (s *Server) eventRoutes() routes {
	return routes{
		"GET /api/v1/events": {
			serve: s.listEvents,
			params: params{
				"after", "company", "cursor", "limit", "min_seq", "order", "page" + many, "raw", "since", "type" + many, "until",
			},
			allow: toCompanies,
		},
		"GET /api/v1/events/{seq}": {serve: s.getEvent, params: params{"min_seq", "raw"}, allow: toCompanies},

		"GET /api/v1/schemas":        {serve: listSchemas, allow: toCompanies},
		"GET /api/v1/schemas/{type}": {serve: getSchema, allow: toCompanies},
	}
}

// listSchemas responds with the event types, each of which has a schema.
func listSchemas(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, map[string]any{"items": domain.Types()})
}

// getSchema responds with the JSON Schema of the data of a type's events.
func getSchema(w http.ResponseWriter, r *http.Request) error {
	schema, err := streams.Schema(domain.Type(r.PathValue("type")))
	if errors.Is(err, streams.ErrUnknownType) {
		return problem(http.StatusNotFound, err.Error())
	}
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/schema+json")
	_, _ = w.Write(schema)
	return nil
}

// errPageFull ends a read of the stream when the page is full.
var errPageFull = errors.New("page is full")

// eventHead is an event without its data, which is in its outgoing form already.
type eventHead struct {
	Seq     uint64           `json:"seq"`
	ID      string           `json:"id"`
	Type    domain.Type      `json:"type"`
	Page    domain.PageID    `json:"page"`
	Contact domain.ContactID `json:"contact,omitempty"`
	// PageName and ContactName are those that the read models have now.
	PageName    string     `json:"page_name,omitempty"`
	ContactName string     `json:"contact_name,omitempty"`
	Time        *time.Time `json:"time,omitempty"`
	Stored      time.Time  `json:"stored_at"`
	Standby     bool       `json:"standby,omitempty"`
}

// eventWriter writes the events of one response.
type eventWriter struct {
	names  *names.Names
	bound  *boundEvents
	base64 bool // the item as raw_base64
}

// names returns a look-up of names for one request.
func (s *Server) names() *names.Names { return names.New(s.opts.Pages, s.opts.Conversations) }

// eventWriter parses ?raw=. Its only value is base64.
func (s *Server) eventWriter(r *http.Request) (eventWriter, error) {
	raw := r.URL.Query().Get("raw")
	if raw != "" && raw != "base64" {
		return eventWriter{}, problem(http.StatusBadRequest, "raw is base64, or is not given")
	}
	return eventWriter{names: s.names(), bound: s.boundEvents(r), base64: raw != ""}, nil
}

// append appends e as one JSON object, on one line. Its data are in the outgoing form of
// [domain.Data.EncodeLine].
func (w eventWriter) append(buf *bytes.Buffer, e streams.Stored) error {
	e, err := w.bound.event(e)
	if err != nil {
		return err
	}
	head := eventHead{
		Seq: e.Seq, ID: e.ID, Type: e.Type, Page: e.Page, Contact: e.Contact, Stored: e.At, Standby: e.Standby,
	}
	if head.PageName, head.ContactName, err = w.bound.names(w.names, e); err != nil {
		return err
	}
	if !e.Time.IsZero() {
		head.Time = &e.Time
	}
	h, err := json.Marshal(head)
	if err != nil {
		return fmt.Errorf("encode event %d: %w", e.Seq, err)
	}
	encode := e.Data.EncodeLine
	if w.base64 {
		encode = e.Data.EncodeLineBase64
	}
	data, err := encode()
	if err != nil {
		return fmt.Errorf("encode event %d: %w", e.Seq, err)
	}
	buf.Write(h[:len(h)-1])
	buf.WriteString(`,"data":`)
	buf.Write(data)
	buf.WriteByte('}')
	return nil
}

// skipMalformed skips stream messages that are not events; the audit counts them.
func skipMalformed(uint64, error) error { return nil }

// filters returns the filter subjects for ?page= and ?type=, none if both are missing.
// Without ?page= they are for the given pages, none for all.
func (s *Server) filters(r *http.Request, ids ...domain.PageID) ([]string, error) {
	selected, types, err := s.selection(r)
	if err != nil {
		return nil, err
	}
	if len(selected) > 0 {
		ids = selected
	}
	var out []string
	for _, page := range ids {
		out = append(out, streams.Filter(page, types...)...)
	}
	if len(ids) == 0 && len(types) > 0 {
		out = streams.Filter("", types...)
	}
	return out, nil
}

// belongs returns a function that reports whether an event is in the list or feed of a
// company, which has what a consumer of the company gets; see [meta.Selection]. No
// company means that every event is. The function waits until the read model of pages has
// applied the event, so that its answer is final. A company's token gets no internal
// events.
func (s *Server) belongs(r *http.Request, company string) func(context.Context, streams.Stored) (bool, error) {
	bound := s.boundEvents(r)
	var types []domain.Type
	for _, t := range list(r, "type") {
		types = append(types, domain.Type(t))
	}
	selection := meta.Select(false, nil, company, types)
	return func(ctx context.Context, e streams.Stored) (bool, error) {
		if company == "" || !bound.shows(e) {
			return company == "", nil
		}
		if !selection.WantsType(e.Type) {
			return false, nil
		}
		if err := s.opts.Pages.WaitFor(ctx, e.Seq); err != nil {
			return false, err
		}
		owner, err := pages.Owner(s.opts.Pages, e.Page, e.Seq)
		return selection.Wants(e, owner), err
	}
}

// maxHeld is how many pages of a company are filtered by the stream. With more, every
// event is read.
const maxHeld = 100

// companyEvents returns the filters and the last sequence for a list of a company's
// events; none reports that there are none. The last sequence is applied by the read
// model of pages: which pages the company has later is not known yet.
func (s *Server) companyEvents(r *http.Request, company string) (out []string, to uint64, none bool, err error) {
	if to, err = streams.Last(r.Context(), s.opts.JS, s.opts.Stream); err != nil {
		return nil, 0, false, err
	}
	if err := s.opts.Pages.WaitFor(r.Context(), to); err != nil {
		return nil, 0, false, fmt.Errorf("wait for read model: %w", err)
	}
	held, err := pages.Held(s.opts.Pages, company)
	if err != nil || len(held) == 0 {
		return nil, 0, err == nil, err
	}
	var ids []domain.PageID
	for i := 0; i < len(held) && len(held) <= maxHeld; i++ {
		ids = append(ids, held[i].ID)
	}
	out, err = s.filters(r, ids...)
	return out, to, false, err
}

// listEvents serves GET /api/v1/events: a page of events after ?after= (or ?cursor=),
// or the live feed if the client accepts text/event-stream. With ?company= it has only
// the events of pages that the company had then; see [pages.Owner]. With ?raw=base64 the
// data have raw_base64, the item's bytes, instead of raw. With ?order=newest the newest
// come first, back to the one after ?after=. ?since= and ?until= select by when an event
// was stored: at ?since= or later, and before ?until=.
func (s *Server) listEvents(w http.ResponseWriter, r *http.Request) error {
	subjects, err := s.filters(r)
	if err != nil {
		return err
	}
	company, err := s.company(r)
	if err != nil {
		return err
	}
	events, err := s.eventWriter(r)
	if err != nil {
		return err
	}
	if wantsFeed(r) {
		if err := feedParams.check(r); err != nil {
			return err
		}
		return s.feedEvents(w, r, subjects, company, events.base64)
	}
	if err := s.awaitNames(r); err != nil {
		return err
	}
	newest, err := newestFirst(r)
	if err != nil {
		return err
	}
	stored, err := storedIn(r)
	if err != nil {
		return err
	}
	after, err := number(r, "after", 0)
	if err != nil {
		return err
	}
	if after == 0 && !newest {
		if after, err = number(r, "cursor", 0); err != nil {
			return err
		}
	}
	limit, err := limit(r)
	if err != nil {
		return err
	}
	from := streams.ReadOptions{
		Stream: s.opts.Stream, From: streams.Following(after), Filters: subjects, Malformed: skipMalformed,
	}
	if company != "" {
		var none bool
		if from.Filters, from.To, none, err = s.companyEvents(r, company); err != nil {
			return err
		}
		if none || from.To < from.From {
			return writeJSON(w, http.StatusOK, List[struct{}]{Items: []struct{}{}})
		}
	}
	if none, err := stored.bound(r.Context(), s.opts.JS, &from); err != nil {
		return err
	} else if none {
		return writeJSON(w, http.StatusOK, List[struct{}]{Items: []struct{}{}})
	}
	belongs := s.belongs(r, company)
	if newest {
		back := backward{s: s, from: from, limit: limit, stored: stored, events: events, belongs: belongs}
		return back.write(w, r)
	}
	var buf bytes.Buffer
	buf.WriteString(`{"items":[`)
	n, last := 0, uint64(0)
	_, err = streams.Read(r.Context(), s.opts.JS, from,
		func(e streams.Stored) error {
			if !stored.has(e.At) {
				return nil
			}
			if ok, err := belongs(r.Context(), e); err != nil || !ok {
				return err
			}
			if n > 0 {
				buf.WriteByte(',')
			}
			if err := events.append(&buf, e); err != nil {
				return err
			}
			last = e.Seq
			// A page is bounded in bytes as well, because events may be large.
			if n++; n >= limit || buf.Len() > maxPageBytes {
				return errPageFull
			}
			return nil
		})
	full := errors.Is(err, errPageFull)
	if err != nil && !full {
		return fmt.Errorf("read events: %w", err)
	}
	buf.WriteByte(']')
	if full {
		fmt.Fprintf(&buf, `,"next":"%d"`, last)
	}
	buf.WriteString("}\n")
	writeRaw(w, http.StatusOK, &buf)
	return nil
}

// awaitNames waits for the read models that have the names of pages and contacts.
func (s *Server) awaitNames(r *http.Request) error {
	return await(r, s.opts.Pages, s.opts.Conversations)
}

// getEvent serves GET /api/v1/events/{seq}.
func (s *Server) getEvent(w http.ResponseWriter, r *http.Request) error {
	seq, err := strconv.ParseUint(r.PathValue("seq"), 10, 64)
	if err != nil || seq == 0 {
		return problem(http.StatusBadRequest, "an event is named by its sequence, a number from 1")
	}
	events, err := s.eventWriter(r)
	if err != nil {
		return err
	}
	if err := s.awaitNames(r); err != nil {
		return err
	}
	e, err := streams.Get(r.Context(), s.opts.JS, s.opts.Stream, seq)
	notFound := problem(http.StatusNotFound, fmt.Sprintf("there is no event %d", seq))
	if company := companyOf(r); company != "" {
		own := false
		if err == nil {
			own, err = s.belongs(r, company)(r.Context(), e)
		}
		if !own && (err == nil || errors.Is(err, streams.ErrMalformed)) { // that is nobody's
			return notFound
		}
	}
	switch {
	case errors.Is(err, streams.ErrNotFound):
		return notFound
	case errors.Is(err, streams.ErrMalformed):
		return problem(http.StatusUnprocessableEntity, fmt.Sprintf("it can't be shown: %v; events export has it", err))
	case err != nil:
		return fmt.Errorf("read event %d: %w", seq, err)
	}
	var buf bytes.Buffer
	if err := events.append(&buf, e); err != nil {
		return err
	}
	buf.WriteByte('\n')
	writeRaw(w, http.StatusOK, &buf)
	return nil
}

// maxFeeds bounds the number of feeds that are open at once, maxCompanyFeeds the number of
// those by the tokens of one company, so that it leaves places for the others.
const (
	maxFeeds        = 64
	maxCompanyFeeds = 8
)

// enterFeed counts a feed of a company. It returns false if the company has too many;
// otherwise the caller must call leave at the end of the feed.
func (s *Server) enterFeed(r *http.Request) (leave func(), ok bool) {
	company := companyOf(r)
	if company == "" {
		return func() {}, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.companyFeeds[company] >= maxCompanyFeeds {
		return nil, false
	}
	s.companyFeeds[company]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.companyFeeds[company]--; s.companyFeeds[company] == 0 {
			delete(s.companyFeeds, company)
		}
	}, true
}

// feedParams are the parameters of the events that also apply to their feed.
var feedParams = params{"after", "company", "page" + many, "raw", "type" + many}

// wantsFeed reports whether the client accepts server-sent events.
func wantsFeed(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), sse.ContentType)
}

// feedEnded handles the result of a feed. It returns a problem with the text full if
// the limit of feeds is reached. Other errors are logged; the client reconnects.
func (s *Server) feedEnded(err error, full string) error {
	switch {
	case errors.Is(err, sse.ErrFull):
		return problem(http.StatusServiceUnavailable, full)
	case err != nil:
		s.opts.Logger.Warn("feed ended", "err", err)
	}
	return nil
}

// feedAfter returns the sequence after which a client wants its feed to start, if it
// has given one.
func feedAfter(r *http.Request) (after uint64, given bool, err error) {
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		if after, err = strconv.ParseUint(id, 10, 64); err != nil {
			return 0, false, problem(http.StatusBadRequest,
				"Last-Event-ID is the sequence of the last event that was handled, a number")
		}
		return after, true, nil
	}
	after, err = number(r, "after", 0)
	return after, r.URL.Query().Has("after"), err
}

// feedEvents serves server-sent events as they are stored. It starts after the
// sequence Last-Event-ID (or ?after=); without either it starts at the head. A client
// that reconnects with the last id that it handled misses no event and sees none
// twice. A sequence beyond the head is waited for.
func (s *Server) feedEvents(
	w http.ResponseWriter, r *http.Request, subjects []string, company string, asBase64 bool,
) error {
	after, given, err := feedAfter(r)
	if err != nil {
		return err
	}
	if !given {
		if after, err = streams.Last(r.Context(), s.opts.JS, s.opts.Stream); err != nil {
			return fmt.Errorf("find the head: %w", err)
		}
	}
	leave, ok := s.enterFeed(r)
	if !ok {
		return problem(http.StatusServiceUnavailable,
			fmt.Sprintf("%d feeds of this company are open already, which is the limit", maxCompanyFeeds))
	}
	defer leave()
	o := sse.Options{Hello: "feed", Heartbeat: "still here"}
	belongs := s.belongs(r, company)
	from := streams.ReadOptions{
		Stream: s.opts.Stream, From: streams.Following(after), Filters: subjects, Malformed: skipMalformed,
	}
	err = s.feeds.Serve(w, r, o, func(ctx context.Context, send func(sse.Event) error) error {
		return streams.Follow(ctx, s.opts.JS, from,
			func(e streams.Stored) error {
				if ok, err := belongs(ctx, e); err != nil || !ok {
					return err
				}
				var data bytes.Buffer
				// A feed is long, and names change.
				events := eventWriter{names: s.names(), bound: s.boundEvents(r), base64: asBase64}
				if err := events.append(&data, e); err != nil {
					return err
				}
				return send(sse.Event{ID: strconv.FormatUint(e.Seq, 10), Type: string(e.Type), Data: data.Bytes()})
			})
	})
	return s.feedEnded(err, fmt.Sprintf("%d feeds are open already, which is the limit", maxFeeds))
}
