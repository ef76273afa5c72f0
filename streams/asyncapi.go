package streams

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"

	"github.com/pagestream/pagestream/domain"
)

//go:embed asyncapi.yaml
var asyncAPI string

// AsyncAPI returns the AsyncAPI 3.0 document of the stream, in YAML. It describes subjects, headers and
// payloads for consumers that don't import this module. A test checks that it agrees with the code.
func AsyncAPI() []byte { return []byte(asyncAPI) }

// ErrUnknownType is returned when there is no event type of that name.
var ErrUnknownType = errors.New("no such event type")

// contract is the part of the AsyncAPI document that [Schema] needs.
type contract struct {
	Components struct {
		Messages map[domain.Type]struct {
			Name    string
			Summary string
			Payload map[string]string
		}
		Schemas map[string]map[string]any
	}
}

var parseAsyncAPI = sync.OnceValues(func() (c contract, err error) {
	err = yaml.Unmarshal([]byte(asyncAPI), &c)
	return c, err
})

// Schema returns the JSON Schema (draft 2020-12) of the data of events of a type, made from the AsyncAPI
// document. It refers to nothing outside of itself, and allows the properties that a newer version may add. Of
// the objects that belong to types it has that of its own. [ErrUnknownType] is returned when there is no such type.
func Schema(t domain.Type) ([]byte, error) {
	c, err := parseAsyncAPI()
	if err != nil {
		return nil, fmt.Errorf("parse AsyncAPI document: %w", err)
	}
	m, ok := c.Components.Messages[t]
	if !ok {
		return nil, fmt.Errorf("%q: %w", t, ErrUnknownType)
	}
	// The payload is Data, or Data with the object of the type as a required property.
	data, required := c.Components.Schemas["Data"], []any{}
	all, _ := c.Components.Schemas[strings.TrimPrefix(m.Payload["$ref"], refPrefix)]["allOf"].([]any)
	for _, part := range all {
		if names, ok := part.(map[string]any)["required"].([]any); ok {
			required = names
		}
	}
	defs, properties := map[string]any{}, map[string]any{}
	of, _ := data["properties"].(map[string]any)
	for name, property := range of {
		_, object := property.(map[string]any)["$ref"]
		if !object || slices.Contains(required, any(name)) {
			properties[name] = c.bundle(property, defs)
		}
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err = e.Encode(struct {
		Schema      string         `json:"$schema"`
		ID          string         `json:"$id"`
		Title       string         `json:"title"`
		Description string         `json:"description"`
		Type        any            `json:"type"`
		Required    []any          `json:"required,omitempty"`
		Properties  map[string]any `json:"properties"`
		Additional  any            `json:"additionalProperties"`
		Defs        map[string]any `json:"$defs,omitempty"`
	}{
		"https://json-schema.org/draft/2020-12/schema", m.Name, string(t), m.Summary,
		data["type"], required, properties, data["additionalProperties"], defs,
	})
	if err != nil {
		return nil, fmt.Errorf("encode schema of %s: %w", t, err)
	}
	return out.Bytes(), nil
}

// refPrefix is the start of a reference to a schema of the AsyncAPI document.
const refPrefix = "#/components/schemas/"

// bundle returns a copy of a schema whose references are to defs, and adds to defs what it refers to.
func (c contract) bundle(v any, defs map[string]any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, member := range v {
			out[name] = c.bundle(member, defs)
		}
		ref, _ := v["$ref"].(string)
		if name, ok := strings.CutPrefix(ref, refPrefix); ok {
			out["$ref"] = "#/$defs/" + name
			if _, found := defs[name]; !found {
				defs[name] = nil // before what it refers to, which may be itself
				defs[name] = c.bundle(c.Components.Schemas[name], defs)
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = c.bundle(e, defs)
		}
		return out
	}
	return v
}
