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
	"HeaderContentType": streams.HeaderContentType,
	"HeaderTraceParent": streams.HeaderTraceParent,
	"HeaderMsgID":       streams.HeaderMsgID,
	"HeaderWatermillID": streams.HeaderWatermillID,
	"HeaderStoredAt":    streams.HeaderStoredAt,
}

// document is the AsyncAPI document in the form that the JSON schema compiler needs.
type document struct{ root map[string]any }

func asyncAPI(t testing.TB) document {
	t.Helper()
	var v any
	if err := yaml.Unmarshal(streams.AsyncAPI(), &v); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if v, err = jsonschema.UnmarshalJSON(bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	root, ok := v.(map[string]any)
	if !ok {
		t.Fatalf("the document is a %T", v)
	}
	return document{root}
}

// at returns the object at a path of property names.
func (d document) at(t testing.TB, path ...string) map[string]any {
	t.Helper()
	o := d.root
	for i, name := range path {
		next, ok := o[name].(map[string]any)
		if !ok {
			t.Fatalf("%s is not an object", strings.Join(path[:i+1], "/"))
		}
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
		if s["additionalProperties"] != true {
			t.Errorf("schema %s does not allow additional properties", name)
		}
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
	if err := c.AddResource(url, d.root); err != nil {
		t.Fatal(err)
	}
	out := contract{}
	for name := range d.at(t, "components", "messages") {
		m := out[domain.Type(name)]
		var err error
		if m.headers, err = c.Compile(url + "#/components/messages/" + name + "/headers"); err != nil {
			t.Fatal(err)
		}
		if m.payload, err = c.Compile(url + "#/components/messages/" + name + "/payload"); err != nil {
			t.Fatal(err)
		}
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
	d := asyncAPI(t)
	if v := d.root["asyncapi"]; v != "3.0.0" {
		t.Errorf("asyncapi %v", v)
	}
	var want, nouns, verbs []string
	for _, typ := range domain.Types() {
		want, nouns, verbs = append(want, string(typ)), append(nouns, typ.Noun()), append(verbs, typ.Verb())
		if got, expect := d.at(t, "components", "messages", string(typ))["name"], cloudType(typ); got != expect {
			t.Errorf("%s has the name %v", typ, got)
		}
		// The headers must have exactly this ce-type.
		all, _ := d.at(t, "components", "messages", string(typ), "headers")["allOf"].([]any)
		if diff := cmp.Diff([]any{
			map[string]any{"$ref": "#/components/schemas/Headers"},
			map[string]any{"properties": map[string]any{streams.HeaderType: map[string]any{"const": cloudType(typ)}}},
		}, all); diff != "" {
			t.Errorf("headers of %s: %s", typ, diff)
		}
		ref := d.at(t, "channels", "events", "messages", string(typ))["$ref"]
		if ref != "#/components/messages/"+string(typ) {
			t.Errorf("the channel's %s is %v", typ, ref)
		}
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
		if diff := cmp.Diff(pair[0], pair[1]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	address := fmt.Sprint(d.at(t, "channels", "events")["address"])
	got := strings.NewReplacer("{page}", "100", "{noun}", "message", "{verb}", "received").Replace(address)
	if want := streams.Subject("100", domain.MessageReceived); got != want {
		t.Errorf("the address %s results in %s, want %s", address, got, want)
	}
	if op := d.at(t, "operations", "receiveEvents"); op["action"] != "receive" {
		t.Errorf("operation %v", op["action"])
	}
	if info := fmt.Sprint(d.at(t, "info")["description"]); !strings.Contains(info, "`"+streams.Name+"`") {
		t.Error("the stream's name is not in the description")
	}
}

func cloudType(t domain.Type) string { return "pagestream." + string(t) + ".v1" }

// TestAsyncAPIHasTheHeaders checks that the header schema has every header constant and no other, and
// requires those that every event has.
func TestAsyncAPIHasTheHeaders(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "message.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
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
	if diff := cmp.Diff(consts, sortedKeys(headers)); diff != "" {
		t.Fatalf("this test's list of headers: %s", diff)
	}

	schema := asyncAPI(t).at(t, "components", "schemas", "Headers")
	names := slices.Sorted(maps.Values(headers))
	properties, _ := schema["properties"].(map[string]any)
	if diff := cmp.Diff(names, sortedKeys(properties)); diff != "" {
		t.Errorf("properties: %s", diff)
	}
	// HeaderStoredAt is set by imports only.
	encoded := slices.DeleteFunc(names, func(n string) bool { return n == streams.HeaderStoredAt })
	for name, e := range map[string]struct {
		event domain.Event
		want  []string
	}{
		"required": {domain.Event{ID: "1", Type: domain.MessageRead}, sortedStrings(schema["required"])},
		"all": {domain.Event{
			ID: "1", Type: domain.MessageRead, Page: "1", Contact: "1",
			Time: time.Unix(1, 0), Standby: true, TraceParent: "00",
		}, encoded},
	} {
		m, err := streams.Encode(e.event)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(e.want, sortedKeys(m.Header)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestAsyncAPIHasTheFieldsOfDomain checks that the schemas have the same properties as the structs of package
// domain, with the same types, and require those that are always written.
func TestAsyncAPIHasTheFieldsOfDomain(t *testing.T) {
	d := asyncAPI(t)
	seen := map[string]bool{"Headers": true}
	d.compare(t, "Data", reflect.TypeFor[domain.Data](), seen)
	for field := range fields(reflect.TypeFor[domain.Data]()) {
		if field.Type.Kind() != reflect.Pointer {
			continue
		}
		name := field.Type.Elem().Name() + "Data"
		tag, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if diff := cmp.Diff(map[string]any{"allOf": []any{
			map[string]any{"$ref": "#/components/schemas/Data"},
			map[string]any{"required": []any{tag}},
		}}, d.at(t, "components", "schemas", name)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	for name := range d.at(t, "components", "schemas") {
		if base, ok := strings.CutSuffix(name, "Data"); !seen[name] && (!ok || !seen[base]) {
			t.Errorf("there is no struct for schema %s", name)
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
	if typ.Name() != name {
		t.Errorf("schema %s is used for %s", name, typ)
	}
	schema := d.at(t, "components", "schemas", name)
	properties, _ := schema["properties"].(map[string]any)
	var names, required []string
	for field := range fields(typ) {
		tag, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if !field.IsExported() || field.Anonymous || tag == "" || tag == "-" {
			t.Errorf("%s.%s: this test does not support such a field", typ, field.Name)
			continue
		}
		names = append(names, tag)
		if options != "omitempty" {
			required = append(required, tag)
		}
		property, ok := properties[tag].(map[string]any)
		if !ok {
			t.Errorf("%s.%s is not in the schema", name, tag)
			continue
		}
		d.compareValue(t, name+"."+tag, property, field.Type, seen)
	}
	slices.Sort(names)
	slices.Sort(required)
	if diff := cmp.Diff(names, sortedKeys(properties)); diff != "" {
		t.Errorf("properties of %s: %s", name, diff)
	}
	if diff := cmp.Diff(required, sortedStrings(schema["required"])); diff != "" {
		t.Errorf("required of %s: %s", name, diff)
	}
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
		if typed, found := schema["type"]; found {
			t.Errorf("%s has type %v, but any JSON value must be allowed", at, typed)
		}
		return
	case reflect.TypeFor[[]byte](): // base64, or null for a nil slice
		diff := cmp.Diff([]string{"null", "string"}, sortedStrings(schema["type"]))
		if diff != "" || schema["contentEncoding"] != "base64" {
			t.Errorf("%s is not base64: %s", at, diff)
		}
		return
	}
	switch typ.Kind() {
	case reflect.Struct:
		ref, ok := strings.CutPrefix(fmt.Sprint(schema["$ref"]), "#/components/schemas/")
		if !ok || len(schema) != 1 {
			t.Errorf("%s is not a reference only", at)
			return
		}
		d.compare(t, ref, typ, seen)
		return
	case reflect.Slice:
		want = "array"
		if items, ok := schema["items"].(map[string]any); ok {
			d.compareValue(t, at+"[]", items, typ.Elem(), seen)
		} else {
			t.Errorf("%s has no items", at)
		}
	case reflect.Map:
		want = "object"
		if values, ok := schema["additionalProperties"].(map[string]any); ok {
			d.compareValue(t, at+"{}", values, typ.Elem(), seen)
		} else {
			t.Errorf("%s has no schema for the values of the map", at)
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
		t.Errorf("%s: this test does not support type %s", at, typ)
		return
	}
	if schema["type"] != want {
		t.Errorf("%s is of type %v, want %v", at, schema["type"], want)
	}
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
		fill(reflect.ValueOf(&e.Data).Elem())
		full, err := streams.Encode(e)
		if err != nil {
			t.Fatal(err)
		}
		if err := closed.check(typ, full); err != nil {
			t.Errorf("%s with every field: %v", typ, err)
		}

		full.Header.Set(streams.HeaderStoredAt, "2026-09-01T12:00:00.005Z")
		if err := closed.check(typ, full); err != nil {
			t.Errorf("%s imported: %v", typ, err)
		}

		// A consumer must accept what a newer version adds.
		newer := *full
		newer.Header = maps.Clone(full.Header)
		newer.Header.Set("ce-pagestreamnew", "1")
		newer.Data = append([]byte(`{"new":1,`), full.Data[1:]...)
		if err := open.check(typ, &newer); err != nil {
			t.Errorf("%s of a newer version: %v", typ, err)
		}
		if closed.check(typ, &newer) == nil {
			t.Errorf("%s: the closed schema allows additional properties", typ)
		}
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
			if open.check(typ, &bad) == nil {
				t.Errorf("%s: the schema accepts %s", typ, name)
			}
		}
	}
}

// TestAsyncAPIExamplesMatchTheirSchemas checks that the document's examples match its schemas.
func TestAsyncAPIExamplesMatchTheirSchemas(t *testing.T) {
	d := asyncAPI(t)
	d.close(t)
	c := d.compile(t)
	n := 0
	for name := range d.at(t, "components", "messages") {
		list, _ := d.at(t, "components", "messages", name)["examples"].([]any)
		for _, example := range list {
			n++
			e, _ := example.(map[string]any)
			if err := c[domain.Type(name)].headers.Validate(e["headers"]); err != nil {
				t.Errorf("headers of an example of %s: %v", name, err)
			}
			if err := c[domain.Type(name)].payload.Validate(e["payload"]); err != nil {
				t.Errorf("payload of an example of %s: %v", name, err)
			}
		}
	}
	if n == 0 {
		t.Error("there are no examples")
	}
}

// deliveries returns webhook bodies by file: the samples of package messenger, and those of the corpus next to
// the repository if it is there.
func deliveries(t *testing.T) map[string][]byte {
	t.Helper()
	out := map[string][]byte{"empty": nil, "not JSON": []byte("{"), "empty object": []byte("{}")}
	corpus := filepath.Join("..", "..", "shared", "corpus")
	if _, err := os.Stat(corpus); err != nil {
		t.Log("there is no corpus next to the repository: only the samples of package messenger are checked")
	}
	for _, pattern := range []string{
		filepath.Join("..", "domain", "messenger", "testdata", "*.json"), filepath.Join(corpus, "*", "*.json"),
	} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.Contains(file, "graph-responses") || strings.HasSuffix(file, ".golden.json") {
				continue
			}
			body, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
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
	d := asyncAPI(t)
	d.close(t)
	c := d.compile(t)
	seen := map[domain.Type]int{}
	for file, body := range deliveries(t) {
		for _, e := range messenger.Split(body, messenger.Options{App: "main"}).Events {
			seen[e.Type]++
			m, err := streams.Encode(e)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.check(e.Type, m); err != nil {
				t.Errorf("%s of %s: %v", e.Type, file, err)
			}
		}
	}
	for _, typ := range domain.Types() {
		if typ.Inbound() != (seen[typ] > 0) {
			t.Errorf("the deliveries have %d events of type %s", seen[typ], typ)
		}
	}
	t.Logf("events by type: %v", seen)
}
