package streams_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/domain"
	"github.com/pagestream/pagestream/domain/messenger"
	"github.com/pagestream/pagestream/streams"
)

// closedSchema compiles the schema of a type's data with additional properties refused.
func closedSchema(t *testing.T, typ domain.Type) *jsonschema.Schema {
	t.Helper()
	b, err := streams.Schema(typ)
	require.NoError(t, err)
	b = bytes.ReplaceAll(b, []byte(`"additionalProperties": true`), []byte(`"additionalProperties": false`))
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	require.NoError(t, err)
	top := v.(map[string]any)
	assert.Equal(t, cloudType(typ), top["$id"])
	assert.Equal(t, "https://json-schema.org/draft/2020-12/schema", top["$schema"])
	for _, m := range regexp.MustCompile(`"\$ref": "([^"]*)"`).FindAllSubmatch(b, -1) {
		require.True(t, strings.HasPrefix(string(m[1]), "#/$defs/"), "%s refers to %s", typ, m[1])
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	c.AssertContent()
	require.NoError(t, c.AddResource("schema.json", v))
	s, err := c.Compile("schema.json")
	require.NoError(t, err, typ)
	return s
}

// closedSchemas returns the schema of each type.
func closedSchemas(t *testing.T) map[domain.Type]*jsonschema.Schema {
	t.Helper()
	out := map[domain.Type]*jsonschema.Schema{}
	for _, typ := range domain.Types() {
		out[typ] = closedSchema(t, typ)
	}
	return out
}

func validate(s *jsonschema.Schema, data []byte) error {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return err
	}
	return s.Validate(v)
}

// TestSchemasMatchTheGoldenFiles checks each event of package messenger's golden files against the AsyncAPI
// document and against the schema of its type.
func TestSchemasMatchTheGoldenFiles(t *testing.T) {
	t.Parallel()
	d := asyncAPI(t)
	d.close(t)
	c, schemas := d.compile(t), closedSchemas(t)
	files, err := filepath.Glob(filepath.Join("..", "domain", "messenger", "testdata", "*.golden.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		b, err := os.ReadFile(file)
		require.NoError(t, err)
		var events []struct {
			Type domain.Type
			Data json.RawMessage
		}
		require.NoError(t, json.Unmarshal(b, &events), file)
		require.NotEmpty(t, events, file)
		for i, e := range events {
			assert.NoError(t, validate(c[e.Type].payload, e.Data), "%s, event %d", file, i)
			assert.NoError(t, validate(schemas[e.Type], e.Data), "%s, event %d", file, i)
		}
	}
}

// TestSchemasMatchDeliveries checks the events of all deliveries against the schemas of their types.
func TestSchemasMatchDeliveries(t *testing.T) {
	t.Parallel()
	schemas := closedSchemas(t)
	for file, body := range deliveries(t) {
		for _, e := range messenger.Split(body, messenger.Options{App: "main"}).Events {
			m, err := streams.Encode(e)
			require.NoError(t, err)
			assert.NoError(t, validate(schemas[e.Type], m.Data), "%s of %s", e.Type, file)
		}
	}
}

// TestSchemasRefuseWhatIsWrong checks that a schema has its own type's object only, and requires it.
func TestSchemasRefuseWhatIsWrong(t *testing.T) {
	t.Parallel()
	s := closedSchema(t, domain.CommentHidden)
	require.NoError(t, validate(s, []byte(`{"comment":{"id":"1","from":{"id":"2"}}}`)))
	for _, bad := range []string{
		`{}`, `[]`, `{"post":{}}`, `{"comment":{},"post":{}}`, `{"comment":{"new":1}}`, `{"comment":{"from":{"id":2}}}`,
	} {
		require.Error(t, validate(s, []byte(bad)), bad)
	}
	_, err := streams.Schema("comment.pinned")
	require.ErrorIs(t, err, streams.ErrUnknownType)
}

// TestAsyncAPIExamplesAreWhatSplitReturns checks that each example of a webhook's event is the event of its raw item.
func TestAsyncAPIExamplesAreWhatSplitReturns(t *testing.T) {
	t.Parallel()
	d := asyncAPI(t)
	checked := 0
	for _, typ := range domain.Types() {
		list, _ := d.at(t, "components", "messages", string(typ))["examples"].([]any)
		for _, example := range list {
			e := example.(map[string]any)
			payload := e["payload"].(map[string]any)
			if !typ.Inbound() {
				continue
			}
			checked++
			raw, err := json.Marshal(payload["raw"])
			require.NoError(t, err)
			page := strings.TrimPrefix(fmt.Sprint(e["headers"].(map[string]any)[streams.HeaderSource]), "/pages/")
			body := fmt.Sprintf(`{"object":%q,"entry":[{"id":%q,"time":%v,%q:[%s]}]}`,
				payload["object"], page, payload["entry_time"], payload["channel"], raw)
			events := messenger.Split([]byte(body), messenger.Options{App: fmt.Sprint(payload["app"])}).Events
			require.Len(t, events, 1, typ)
			m, err := streams.Encode(events[0])
			require.NoError(t, err)
			headers := map[string]any{}
			for name, v := range m.Header {
				headers[name] = v[0]
			}
			assert.Equal(t, headers, e["headers"], typ)
			want, err := json.Marshal(payload)
			require.NoError(t, err)
			assert.JSONEq(t, string(want), string(m.Data), typ)
		}
	}
	require.GreaterOrEqual(t, checked, 19)
}
