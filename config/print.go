package config

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

//go:embed example.yaml
var example string

// Example returns a configuration file that documents every setting. The values
// that are not commented out are the defaults.
func Example() string { return example }

// Redact returns a copy in which every secret is replaced by "(set, N bytes)"
// and user info in nats.url by "hidden".
func Redact(c Config) Config {
	c.NATS.URL = Servers(c.NATS.URL.String())
	c.Apps = slices.Clone(c.Apps)
	for i := range c.Apps {
		app := &c.Apps[i]
		app.Secrets = slices.Clone(app.Secrets)
		for j, s := range app.Secrets {
			app.Secrets[j] = Secret(s.String())
		}
		app.VerifyToken = Secret(app.VerifyToken.String())
	}
	return c
}

// Print writes the settings as YAML in the order of the fields of [Config], with
// secrets replaced as by [Redact]. Without apps and credentials in nats.url,
// [Load] returns the same settings for the output.
func Print(w io.Writer, c Config) error {
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(node(reflect.ValueOf(Redact(c)))), enc.Close()); err != nil {
		return fmt.Errorf("print configuration: %w", err)
	}
	return nil
}

// node converts a setting or a group of settings to YAML, in the order of fields.
func node(v reflect.Value) *yaml.Node {
	switch value := v.Interface().(type) {
	case time.Duration:
		return text(formatDuration(value))
	case fmt.Stringer:
		return text(value.String())
	}
	switch v.Kind() {
	case reflect.Struct:
		n := &yaml.Node{Kind: yaml.MappingNode}
		for f, value := range v.Fields() {
			n.Content = append(n.Content, text(f.Tag.Get("koanf")), node(value))
		}
		return n
	case reflect.Slice:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		if v.Len() == 0 {
			n.Style = yaml.FlowStyle
		}
		for i := range v.Len() {
			n.Content = append(n.Content, node(v.Index(i)))
		}
		return n
	case reflect.Int, reflect.Bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Value: fmt.Sprint(v.Interface())}
	}
	return text(v.String())
}

func text(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	return n
}

// MarshalJSON encodes the settings by their keys. Durations and sizes have the
// form of the configuration file, and secrets are replaced as by [Redact].
func (c Config) MarshalJSON() ([]byte, error) {
	var settings map[string]any
	if err := node(reflect.ValueOf(Redact(c))).Decode(&settings); err != nil {
		return nil, fmt.Errorf("print configuration: %w", err)
	}
	return json.Marshal(settings)
}

// formatDuration returns Duration.String without zero units at its end: 10m, not
// 10m0s.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
