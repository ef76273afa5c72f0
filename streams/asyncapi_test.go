package streams_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
	"github.com/pagestream/pagestream/streams"
)

// headers are the header constants by name. TestAsyncAPIHasTheHeaders checks that none is missing.
var headers = map[string]string{
	"HeaderSpecVersion": streams.HeaderSpecVersion,
	"HeaderID":          streams.HeaderID,
	"HeaderType":        streams.HeaderType,
	"HeaderSource":      streams.HeaderSource,
	"HeaderSubject":     streams.HeaderSubject,
	"HeaderTime":        streams.HeaderTime,
	"HeaderStandby":     streams.HeaderStandby,
	"HeaderOriginal":    streams.HeaderOriginal,
	"HeaderOriginalID":  streams.HeaderOriginalID,
	"HeaderContentType": streams.HeaderContentType,
	"HeaderTraceParent": streams.HeaderTraceParent,
	"HeaderMsgID":       streams.HeaderMsgID,
	"HeaderWatermillID": streams.HeaderWatermillID,
	"HeaderStoredAt":    streams.HeaderStoredAt,
	"HeaderSequence":    streams.HeaderSequence,
}

// document is the AsyncAPI document in the form that the JSON schema compiler needs.
type document struct{ root map[string]any }

func asyncAPI(t testing.TB) document {
	t.Helper()
	var v any
	require.NoError(t, yaml.Unmarshal(streams.AsyncAPI(), &v))
	b, err := json.Marshal(v)
	require.NoError(t, err)
	v, err = jsonschema.UnmarshalJSON(bytes.NewReader(b))
	require.NoError(t, err)
	root, ok := v.(map[string]any)
	require.True(t, ok, "the document is a %T", v)
	return document{root}
}

// at returns the object at a path of property names.
func (d document) at(t testing.TB, path ...string) map[string]any {
	t.Helper()
	o := d.root
	for i, name := range path {
		next, ok := o[name].(map[string]any)
		require.True(t, ok, "%s is not an object", strings.Join(path[:i+1], "/"))
		o = next
	}
	return o
}

// close makes every schema refuse additional properties. In the document itself every schema must explicitly
// allow them, since a consumer must be able to read what a newer version writes.
func (d document) close(t testing.TB) {
	t.Helper()
	for name := range d.at(t, "components", "schemas") {
		s := d.at(t, "components", "schemas", name)
		if s["properties"] == nil {
			continue
		}
		assert.Equal(t, true, s["additionalProperties"], "schema %s does not allow additional properties", name)
		s["additionalProperties"] = false
	}
}

// contract has the compiled schemas of each message, by event type.
type contract map[domain.Type]struct{ headers, payload *jsonschema.Schema }

func (d document) compile(t testing.TB) contract {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7) // the draft that AsyncAPI uses
	c.AssertFormat()
	c.AssertContent()
	const url = "asyncapi:///document"
	require.NoError(t, c.AddResource(url, d.root))
	out := contract{}
	for name := range d.at(t, "components", "messages") {
		m := out[domain.Type(name)]
		var err error
		m.headers, err = c.Compile(url + "#/components/messages/" + name + "/headers")
		require.NoError(t, err)
		m.payload, err = c.Compile(url + "#/components/messages/" + name + "/payload")
		require.NoError(t, err)
		out[domain.Type(name)] = m
	}
	return out
}

// check returns an error if the message does not match the schemas of its type.
func (c contract) check(typ domain.Type, m *nats.Msg) error {
	s, found := c[typ]
	if !found {
		return fmt.Errorf("%s is not in the document", typ)
	}
	h := map[string]any{}
	for k, v := range m.Header {
		if len(v) != 1 {
			return fmt.Errorf("header %s has %d values", k, len(v))
		}
		h[k] = v[0]
	}
	if err := s.headers.Validate(h); err != nil {
		return fmt.Errorf("headers: %w", err)
	}
	data, err := jsonschema.UnmarshalJSON(bytes.NewReader(m.Data))
	if err != nil {
		return err
	}
	if err := s.payload.Validate(data); err != nil {
		return fmt.Errorf("payload: %w", err)
	}
	return nil
}

// sortedStrings returns the elements of a JSON array as sorted strings.
func sortedStrings(v any) []string {
	var out []string
	list, _ := v.([]any)
	for _, e := range list {
		out = append(out, fmt.Sprint(e))
	}
	slices.Sort(out)
	return out
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// TestAsyncAPIHasTheEventTypes checks that the document has every event type and no other, each with its
// CloudEvents type, and the same subjects as Subject returns.
func TestAsyncAPIHasTheEventTypes(t *testing.T) {
	t.Parallel()
	d := asyncAPI(t)
	require.Equal(t, "3.0.0", d.root["asyncapi"])
	var want, nouns, verbs []string
	for _, typ := range domain.Types() {
		want, nouns, verbs = append(want, string(typ)), append(nouns, typ.Noun()), append(verbs, typ.Verb())
		got, expect := d.at(t, "components", "messages", string(typ))["name"], cloudType(typ)
		require.Equal(t, expect, got, "the name of %s", typ)
		// The headers must have exactly this ce-type.
		all, _ := d.at(t, "components", "messages", string(typ), "headers")["allOf"].([]any)
		require.Empty(t, cmp.Diff([]any{
			map[string]any{"$ref": "#/components/schemas/Headers"},
			map[string]any{"properties": map[string]any{streams.HeaderType: map[string]any{"const": cloudType(typ)}}},
		}, all), "headers of %s", typ)
		ref := d.at(t, "channels", "events", "messages", string(typ))["$ref"]
		require.Equal(t, "#/components/messages/"+string(typ), ref, "the channel's %s", typ)
	}
	for _, l := range [][]string{want, nouns, verbs} {
		slices.Sort(l)
	}
	parameters := []string{"channels", "events", "parameters"}
	for name, pair := range map[string][2][]string{
		"messages":         {want, sortedKeys(d.at(t, "components", "messages"))},
		"channel messages": {want, sortedKeys(d.at(t, "channels", "events", "messages"))},
		"nouns":            {slices.Compact(nouns), sortedStrings(d.at(t, append(parameters, "noun")...)["enum"])},
		"verbs":            {slices.Compact(verbs), sortedStrings(d.at(t, append(parameters, "verb")...)["enum"])},
	} {
		require.Empty(t, cmp.Diff(pair[0], pair[1]), name)
	}
	address := fmt.Sprint(d.at(t, "channels", "events")["address"])
	got := strings.NewReplacer("{page}", "100", "{noun}", "message", "{verb}", "received").Replace(address)
	require.Equal(t, streams.Subject("100", domain.MessageReceived), got, "the address %s", address)
	outbox := fmt.Sprint(d.at(t, "channels", "outbox")["address"])
	got = strings.NewReplacer("{consumer}", "crm", "{page}", "100", "{noun}", "message", "{verb}", "received").Replace(outbox)
	require.Equal(t, streams.OutboxSubject("crm", "100", domain.MessageReceived), got, "the address %s", outbox)
	require.Equal(t, d.at(t, "channels", "events")["messages"], d.at(t, "channels", "outbox")["messages"])
	for _, name := range []string{"receiveEvents", "receiveOutbox"} {
		require.Equal(t, "receive", d.at(t, "operations", name)["action"])
	}
	require.Contains(t, fmt.Sprint(d.at(t, "info")["description"]), "`"+streams.Name+"`",
		"the stream's name is not in the description")
}

func cloudType(t domain.Type) string { return "pagestream." + string(t) + ".v1" }

// TestAsyncAPIHasTheHeaders checks that the header schema has every header constant and no other, and
// requires those that every event has.
func TestAsyncAPIHasTheHeaders(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "message.go", nil, 0)
	require.NoError(t, err)
	var consts []string
	ast.Inspect(file, func(n ast.Node) bool {
		if d, ok := n.(*ast.GenDecl); ok && d.Tok == token.CONST {
			for _, s := range d.Specs {
				for _, name := range s.(*ast.ValueSpec).Names {
					if strings.HasPrefix(name.Name, "Header") {
						consts = append(consts, name.Name)
					}
				}
			}
		}
		return true
	})
	slices.Sort(consts)
	require.Empty(t, cmp.Diff(consts, sortedKeys(headers)), "this test's list of headers")

	schema := asyncAPI(t).at(t, "components", "schemas", "Headers")
	names := slices.Sorted(maps.Values(headers))
	properties, _ := schema["properties"].(map[string]any)
	require.Empty(t, cmp.Diff(names, sortedKeys(properties)))
	// HeaderStoredAt is set by imports, and both in the streams of consumers.
	foreign := slices.DeleteFunc(names, func(n string) bool {
		return n == streams.HeaderStoredAt || n == streams.HeaderSequence
	})
	encoded := slices.DeleteFunc(slices.Clone(foreign), func(n string) bool {
		return n == streams.HeaderOriginal || n == streams.HeaderOriginalID
	})
	for name, e := range map[string]struct {
		event domain.Event
		want  []string
	}{
		"required": {domain.Event{ID: "1", Type: domain.MessageRead}, sortedStrings(schema["required"])},
		"all": {domain.Event{
			ID: "1", Type: domain.MessageRead, Page: "1", Contact: "1",
			Time: time.Unix(1, 0), Standby: true, TraceParent: "00",
		}, encoded},
		"foreign": {domain.Event{
			ID: "1", Type: domain.ForeignReceived, Original: domain.MessageRead, OriginalID: "1", Page: "1", Contact: "1",
			Time: time.Unix(1, 0), Standby: true, TraceParent: "00",
		}, foreign},
	} {
		m, err := streams.Encode(e.event)
		require.NoError(t, err)
		require.Empty(t, cmp.Diff(e.want, sortedKeys(m.Header)), name)
	}
}

// TestAsyncAPIHasTheFieldsOfDomain checks that the schemas have the same properties as the structs of package
// domain, with the same types, and require those that are always written.
func TestAsyncAPIHasTheFieldsOfDomain(t *testing.T) {
	t.Parallel()
	d := asyncAPI(t)
	seen := map[string]bool{"Headers": true}
	d.compare(t, "Data", reflect.TypeFor[domain.Data](), seen)
	for field := range fields(reflect.TypeFor[domain.Data]()) {
		if field.Type.Kind() != reflect.Pointer {
			continue
		}
		name := field.Type.Elem().Name() + "Data"
		tag, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		require.Empty(t, cmp.Diff(map[string]any{"allOf": []any{
			map[string]any{"$ref": "#/components/schemas/Data"},
			map[string]any{"required": []any{tag}},
		}}, d.at(t, "components", "schemas", name)), name)
	}
	for name := range d.at(t, "components", "schemas") {
		if base, ok := strings.CutSuffix(name, "Data"); !seen[name] {
			require.True(t, ok, "there is no struct for schema %s", name)
			require.True(t, seen[base], "there is no struct for schema %s", name)
		}
	}
}

// compare compares a schema with a struct, and those that it refers to.
func (d document) compare(t *testing.T, name string, typ reflect.Type, seen map[string]bool) {
	t.Helper()
	if seen[name] {
		return
	}
	seen[name] = true
	assert.Equal(t, name, typ.Name())
	schema := d.at(t, "components", "schemas", name)
	properties, _ := schema["properties"].(map[string]any)
	var names, required []string
	for field := range fields(typ) {
		tag, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if !field.IsExported() || field.Anonymous || tag == "" || tag == "-" {
			assert.Fail(t, "this test does not support such a field", "%s.%s", typ, field.Name)
			continue
		}
		names = append(names, tag)
		if options != "omitempty" && options != "omitzero" {
			required = append(required, tag)
		}
		property, ok := properties[tag].(map[string]any)
		if !assert.True(t, ok, "%s.%s is not in the schema", name, tag) {
			continue
		}
		d.compareValue(t, name+"."+tag, property, field.Type, seen)
	}
	slices.Sort(names)
	slices.Sort(required)
	assert.Empty(t, cmp.Diff(names, sortedKeys(properties)), "properties of %s", name)
	assert.Empty(t, cmp.Diff(required, sortedStrings(schema["required"])), "required of %s", name)
}

func fields(typ reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range typ.NumField() {
			if !yield(typ.Field(i)) {
				return
			}
		}
	}
}

// compareValue compares the schema of a property with its Go type.
func (d document) compareValue(
	t *testing.T, at string, schema map[string]any, typ reflect.Type, seen map[string]bool,
) {
	t.Helper()
	if typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	var want any
	switch typ {
	case reflect.TypeFor[json.RawMessage](): // any JSON
		typed, found := schema["type"]
		assert.False(t, found, "%s has type %v, but any JSON value must be allowed", at, typed)
		return
	case reflect.TypeFor[[]byte](): // base64, or null for a nil slice
		diff := cmp.Diff([]string{"null", "string"}, sortedStrings(schema["type"]))
		assert.Empty(t, diff, "%s is not base64", at)
		assert.Equal(t, "base64", schema["contentEncoding"], "%s is not base64", at)
		return
	}
	switch typ.Kind() {
	case reflect.Struct:
		ref, ok := strings.CutPrefix(fmt.Sprint(schema["$ref"]), "#/components/schemas/")
		if !ok || len(schema) != 1 {
			assert.Fail(t, "not a reference only", at)
			return
		}
		d.compare(t, ref, typ, seen)
		return
	case reflect.Slice:
		want = "array"
		if items, ok := schema["items"].(map[string]any); ok {
			d.compareValue(t, at+"[]", items, typ.Elem(), seen)
		} else {
			assert.Fail(t, "no items", at)
		}
	case reflect.Map:
		want = "object"
		if values, ok := schema["additionalProperties"].(map[string]any); ok {
			d.compareValue(t, at+"{}", values, typ.Elem(), seen)
		} else {
			assert.Fail(t, "no schema for the values of the map", at)
		}
	case reflect.String:
		want = "string"
	case reflect.Bool:
		want = "boolean"
	case reflect.Int, reflect.Int64, reflect.Uint64:
		want = "integer"
	case reflect.Float64:
		want = "number"
	default:
		assert.Fail(t, "this test does not support the type", "%s of type %s", at, typ)
		return
	}
	assert.Equal(t, want, schema["type"], at)
}

// fill sets every field of a value, so that each property is encoded.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes([]byte(`{"any":["thing",null]}`))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		value := reflect.New(v.Type().Elem()).Elem()
		fill(value)
		v.SetMapIndex(reflect.ValueOf("263902037430900"), value)
	case reflect.String:
		v.SetString("<ä>")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(1 << 60)
	case reflect.Uint64:
		v.SetUint(1 << 63)
	case reflect.Float64:
		v.SetFloat(-0.5)
	}
}

// TestAsyncAPIMatchesEvents checks that an encoded event of each type matches the document, and that the
// document allows what a newer version adds and refuses what is wrong.
func TestAsyncAPIMatchesEvents(t *testing.T) {
	t.Parallel()
	d := asyncAPI(t)
	open := d.compile(t)
	d.close(t)
	closed := d.compile(t)
	for _, typ := range domain.Types() {
		e := domain.Event{
			ID: "page:100:msg:m_1", Type: typ, Page: "a b/ä", Contact: "<ä>", Standby: true,
			Time:        time.Date(2026, 9, 1, 12, 0, 0, 5e6, time.UTC),
			TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		}
		if typ == domain.ForeignReceived {
			e.Original, e.OriginalID = domain.MessageReceived, "page:100:msg:m_1"
		}
		fill(reflect.ValueOf(&e.Data).Elem())
		full, err := streams.Encode(e)
		require.NoError(t, err)
		require.NoError(t, closed.check(typ, full), "%s with every field", typ)

		full.Header.Set(streams.HeaderStoredAt, "2026-09-01T12:00:00.005Z")
		require.NoError(t, closed.check(typ, full), "%s imported", typ)
		full.Header.Set(streams.HeaderSequence, "12")
		require.NoError(t, closed.check(typ, full), "%s in an outbox", typ)

		// A consumer must accept what a newer version adds.
		newer := *full
		newer.Header = maps.Clone(full.Header)
		newer.Header.Set("ce-pagestreamnew", "1")
		newer.Data = append([]byte(`{"new":1,`), full.Data[1:]...)
		require.NoError(t, open.check(typ, &newer), "%s of a newer version", typ)
		require.Error(t, closed.check(typ, &newer), "%s: the closed schema allows additional properties", typ)
		// Invalid messages must be refused.
		for name, change := range map[string]func(*nats.Msg){
			"another type":  func(m *nats.Msg) { m.Header.Set(streams.HeaderType, cloudType("message.pinned")) },
			"no id":         func(m *nats.Msg) { m.Header.Del(streams.HeaderID) },
			"a broken time": func(m *nats.Msg) { m.Header.Set(streams.HeaderTime, "yesterday") },
			"a number": func(m *nats.Msg) {
				m.Data = bytes.Replace(m.Data, []byte(`"app":"<ä>"`), []byte(`"app":1`), 1)
			},
		} {
			bad := *full
			bad.Header = maps.Clone(full.Header)
			change(&bad)
			require.Error(t, open.check(typ, &bad), "%s: the schema accepts %s", typ, name)
		}
	}
}

// TestAsyncAPIExamplesMatchTheirSchemas checks that the document's examples match its schemas.
func TestAsyncAPIExamplesMatchTheirSchemas(t *testing.T) {
	t.Parallel()
	d := asyncAPI(t)
	d.close(t)
	c := d.compile(t)
	n := 0
	for name := range d.at(t, "components", "messages") {
		list, _ := d.at(t, "components", "messages", name)["examples"].([]any)
		for _, example := range list {
			n++
			e, _ := example.(map[string]any)
			require.NoError(t, c[domain.Type(name)].headers.Validate(e["headers"]),
				"headers of an example of %s", name)
			require.NoError(t, c[domain.Type(name)].payload.Validate(e["payload"]),
				"payload of an example of %s", name)
		}
	}
	require.NotZero(t, n, "there are no examples")
}

// deliveries returns webhook bodies by file: the samples of package messenger, and those of the corpus and the
// cases next to the repository if they are there.
func deliveries(t *testing.T) map[string][]byte {
	t.Helper()
	out := map[string][]byte{"empty": nil, "not JSON": []byte("{"), "empty object": []byte("{}")}
	corpus := filepath.Join("..", "..", "shared", "corpus")
	if _, err := os.Stat(corpus); err != nil {
		t.Log("there is no corpus next to the repository: only the samples of package messenger are checked")
	}
	cases := filepath.Join(filepath.Dir(corpus), "cases")
	if _, err := os.Stat(cases); err != nil {
		t.Log("there are no cases next to the repository: they are not checked")
	}
	for _, pattern := range []string{
		filepath.Join("..", "domain", "messenger", "testdata", "*.json"), filepath.Join(corpus, "*", "*.json"),
		filepath.Join(cases, "*.json"),
	} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, file := range files {
			if strings.Contains(file, "graph-responses") || strings.HasSuffix(file, ".golden.json") {
				continue
			}
			body, err := os.ReadFile(file)
			require.NoError(t, err)
			var top map[string]json.RawMessage
			if json.Unmarshal(body, &top) == nil && top["entry"] == nil { // one item
				body = fmt.Appendf(nil, `{"object":"page","entry":[{"id":"1","time":1790000000000,"messaging":[%s]}]}`, body)
			}
			out[file] = body
		}
	}
	return out
}

// TestAsyncAPIMatchesDeliveries checks that the events of real deliveries match the document. They include
// every type that a delivery can have, and so every object that a payload requires.
func TestAsyncAPIMatchesDeliveries(t *testing.T) {
	t.Parallel()
	d := asyncAPI(t)
	d.close(t)
	c := d.compile(t)
	seen := map[domain.Type]int{}
	for file, body := range deliveries(t) {
		for _, e := range messenger.Split(body, messenger.Options{App: "main"}).Events {
			seen[e.Type]++
			m, err := streams.Encode(e)
			require.NoError(t, err)
			require.NoError(t, c.check(e.Type, m), "%s of %s", e.Type, file)
		}
	}
	for _, typ := range domain.Types() {
		require.Equal(t, seen[typ] > 0, typ.Inbound(), "the deliveries have %d events of type %s", seen[typ], typ)
	}
	t.Logf("events by type: %v", seen)
}
