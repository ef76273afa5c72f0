package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/doctor"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/internal/nearest"
)

// params are the names of the query parameters that a route knows. A parameter is given
// once. If its name here ends in [many], it may be repeated, and each of its values may
// be several, separated by commas.
type params []string

const many = "..."

// names returns the names without [many].
func (p params) names() []string {
	out := make([]string, len(p))
	for i, name := range p {
		out[i] = strings.TrimSuffix(name, many)
	}
	return out
}

// check returns a problem if the query has a parameter that is unknown, empty, or
// repeated without being one of many. No parameter is ignored: without the one that a
// client misspelled, its request would be about more than it meant.
func (p params) check(r *http.Request) error {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil { // [url.URL.Query] would leave out what it can't read
		return problem(http.StatusBadRequest, "the query of the URL can't be read; escape its values")
	}
	names := p.names()
	for _, name := range slices.Sorted(maps.Keys(query)) {
		values := query[name]
		switch {
		case !slices.Contains(names, name):
			return unknownName("parameter", name, names)
		case slices.Contains(p, name+many):
			values = list(r, name)
		case len(values) > 1:
			return problem(http.StatusBadRequest, "parameter "+name+" is given more than once")
		}
		if slices.Contains(values, "") {
			return emptyName("parameter", name)
		}
	}
	return nil
}

// list returns the values of a parameter that is one of many.
func list(r *http.Request, name string) (out []string) {
	for _, v := range r.URL.Query()[name] {
		out = append(out, strings.Split(v, ",")...)
	}
	return out
}

// number parses a query parameter that is a non-negative integer. It returns fallback
// if the parameter is missing.
func number(r *http.Request, name string, fallback uint64) (uint64, error) {
	v := r.URL.Query().Get(name)
	if v == "" {
		return fallback, nil
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		return 0, problem(http.StatusBadRequest, fmt.Sprintf("%s=%q is not a whole number", name, v))
	}
	return n, nil
}

// boolean parses a query parameter that is true or false, or 1 or 0. It returns false
// if the parameter is missing.
func boolean(r *http.Request, name string) (bool, error) {
	switch r.URL.Query().Get(name) {
	case "1", "true":
		return true, nil
	case "", "0", "false":
		return false, nil
	}
	return false, problem(http.StatusBadRequest, name+" is true or false")
}

// limit parses ?limit=. It must be at least 1; values over maxPage are reduced to it.
func limit(r *http.Request) (int, error) {
	n, err := number(r, "limit", defaultPage)
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, problem(http.StatusBadRequest, "limit is at least 1")
	}
	return int(min(n, maxPage)), nil
}

// selection parses ?page= and ?type=. It returns a problem if one of the pages or types
// does not exist. None means that the parameter is missing. Both are sorted.
func (s *Server) selection(r *http.Request) (pages []domain.PageID, types []domain.Type, err error) {
	for _, name := range list(r, "type") {
		t := domain.Type(name)
		if !t.Known() {
			return nil, nil, problem(http.StatusBadRequest, meta.UnknownType(t))
		}
		types = append(types, t)
	}
	for _, id := range list(r, "page") {
		pages = append(pages, domain.PageID(id))
	}
	slices.Sort(pages)
	slices.Sort(types)
	pages, types = slices.Compact(pages), slices.Compact(types)
	if err := s.ownSelection(r, pages); err != nil {
		return nil, nil, err
	}
	err = s.opts.Operator.CheckPages(r.Context(), pages)
	switch {
	case errors.Is(err, doctor.ErrUnknownPage):
		return nil, nil, problem(http.StatusBadRequest, err.Error())
	case err != nil:
		return nil, nil, fmt.Errorf("find pages: %w", err)
	}
	return pages, types, nil
}

// maxRequest bounds the body of a request, in bytes.
const maxRequest = 1 << 20

// decode decodes a request's body, one JSON object, into the struct that in points to.
// A field that is unknown, empty or given twice is a problem. The decoder's errors are
// not passed on: they may quote the body, which may contain a token.
func decode(w http.ResponseWriter, r *http.Request, in any, usage string) error {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err == nil {
		err = checkFields(b, fieldsOf(in))
	}
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(b))
		d.DisallowUnknownFields() // of nested objects
		err = d.Decode(in)
	}
	var p Problem
	if err == nil || errors.As(err, &p) {
		return err
	}
	return problem(http.StatusBadRequest, "send "+usage)
}

// noBody returns a problem if a request that takes no body has one with fields. The body
// of a GET has no meaning.
func noBody(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return nil
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err == nil && len(bytes.TrimSpace(b)) > 0 {
		err = checkFields(b, nil)
	}
	var p Problem
	if err == nil || errors.As(err, &p) {
		return err
	}
	return problem(http.StatusBadRequest, "this request takes no body")
}

// fieldsOf returns the names of the JSON fields of a struct, which in points to.
func fieldsOf(in any) (names []string) {
	t := reflect.TypeOf(in).Elem()
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ","); name != "-" {
			names = append(names, name)
		}
	}
	return names
}

var errNotObject = errors.New("not one JSON object")

// checkFields checks the fields of a JSON object as [params.check] checks parameters.
// Unlike [json.Decoder] it accepts a name in its exact case only. It returns
// [errNotObject] if b is not one object.
func checkFields(b []byte, names []string) error {
	d := json.NewDecoder(bytes.NewReader(b))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return errNotObject
	}
	var seen []string
	for d.More() {
		token, err := d.Token()
		name, _ := token.(string)
		var value json.RawMessage
		if err != nil || d.Decode(&value) != nil {
			return errNotObject
		}
		switch {
		case !slices.Contains(names, name):
			return unknownName("field", name, names)
		case slices.Contains(seen, name):
			return problem(http.StatusBadRequest, "field "+name+" is given more than once")
		case isEmpty(value):
			return emptyName("field", name)
		}
		seen = append(seen, name)
	}
	if _, err := d.Token(); err != nil {
		return errNotObject
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errNotObject
	}
	return nil
}

// isEmpty reports whether a field's value is null, an empty text, an empty list, or a
// list that contains one of them.
func isEmpty(value json.RawMessage) bool {
	if s := string(value); s == "null" || s == `""` {
		return true
	}
	var items []json.RawMessage
	if json.Unmarshal(value, &items) != nil {
		return false
	}
	return len(items) == 0 || slices.ContainsFunc(items, isEmpty)
}

func emptyName(what, name string) error {
	return problem(http.StatusBadRequest, what+" "+name+" has an empty value; give it one, or leave it out")
}

// unknownName returns the problem for a parameter or field that does not exist. It names
// the one that was probably meant, or all.
func unknownName(what, name string, known []string) error {
	text := fmt.Sprintf("there is no %s %s", what, quote(name))
	similar := nearest.Name(name, known)
	switch {
	case similar != "":
		text += "; did you mean " + similar + "?"
	case len(known) > 0:
		text += "; there are " + strings.Join(known, ", ")
	default:
		text += "; this request takes none"
	}
	return problem(http.StatusBadRequest, text)
}

// quote returns a name for an error. A long one is not shown: it may be a secret in the
// wrong place.
func quote(name string) string {
	const longest = 40
	if len(name) > longest {
		return "(a long name)"
	}
	return strconv.Quote(name)
}
