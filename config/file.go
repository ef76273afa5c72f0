package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds a configuration file in bytes.
const maxFile = 1 << 20

// fileParser is a koanf parser that checks as it reads: it knows every key, and
// it says on which line a mistake is.
//
// Scalars are taken as they are written, not as YAML guesses them: an app
// secret of digits, or of digits and one "e", is no number.
type fileParser struct{ name string }

// Unmarshal implements koanf.Parser.
func (p fileParser) Unmarshal(b []byte) (map[string]any, error) {
	dec := yaml.NewDecoder(bytes.NewReader(b))
	var doc yaml.Node
	err := dec.Decode(&doc)
	switch {
	case errors.Is(err, io.EOF):
		return map[string]any{}, nil // nothing but comments
	case err != nil:
		return nil, fmt.Errorf("%s: %s", p.name, syntax(err))
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: has more than one YAML document: keep the first and remove what follows the second ---", p.name)
	}
	w := walker{name: p.name, keys: keys(), appKeys: appKeys()}
	out := w.root(doc.Content[0])
	return out, errors.Join(w.problems...)
}

// Marshal implements koanf.Parser. Nothing here writes through koanf: see
// [Print].
func (fileParser) Marshal(map[string]any) ([]byte, error) {
	return nil, errors.New("config: not written by koanf")
}

// syntax keeps of a YAML error what can't be part of a value.
func syntax(err error) string {
	text := err.Error()
	if strings.Contains(text, "anchor") {
		// It would quote an unquoted secret that begins with & or *.
		return "YAML: a value that begins with & or * must stand in quotes"
	}
	return text
}

// walker goes through the nodes of a file and collects problems.
type walker struct {
	name     string
	keys     []key
	appKeys  []key
	problems []error
}

func (w *walker) problem(n *yaml.Node, format string, args ...any) {
	w.problems = append(w.problems, fmt.Errorf("%s line %d: %s", w.name, n.Line, fmt.Sprintf(format, args...)))
}

// isNull reports whether a key is there without a value, as in `url:`; it then
// counts as not set.
func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// each calls f for every key of a mapping.
func (w *walker) each(n *yaml.Node, where string, f func(name string, k, v *yaml.Node)) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		w.problem(n, "%s takes keys, one a line, indented: see pagestream config example", where)
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode {
			w.problem(k, "%s has a key that is not a name", where)
			continue
		}
		if line, twice := seen[k.Value]; twice {
			w.problem(k, "%s is set on line %d already: remove one", k.Value, line)
			continue
		}
		seen[k.Value] = k.Line
		f(k.Value, k, v)
	}
}

func (w *walker) root(n *yaml.Node) map[string]any {
	out := map[string]any{}
	w.each(n, "the file", func(name string, k, v *yaml.Node) {
		if name == "apps" {
			if apps := w.apps(v); apps != nil {
				out["apps"] = apps
			}
			return
		}
		if !w.isSection(name) {
			w.problem(k, "%s", unknown(name, w.topNames()))
			return
		}
		section := map[string]any{}
		w.each(v, name, func(field string, k, v *yaml.Node) {
			path := name + "." + field
			known, ok := find(w.keys, path)
			if !ok {
				w.problem(k, "%s", unknown(path, paths(w.keys)))
				return
			}
			if value, ok := w.value(path, known, v); ok {
				section[field] = value
			}
		})
		out[name] = section
	})
	return out
}

func (w *walker) apps(n *yaml.Node) []any {
	if isNull(n) {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		w.problem(n, "apps is a list: begin each app with a dash, as in \"- name: main\"")
		return nil
	}
	list := []any{}
	for i, item := range n.Content {
		where := fmt.Sprintf("apps[%d]", i)
		app := map[string]any{}
		w.each(item, where, func(field string, k, v *yaml.Node) {
			known, ok := find(w.appKeys, field)
			if !ok {
				w.problem(k, "%s", unknown(field, paths(w.appKeys)))
				return
			}
			if value, ok := w.value(where+"."+field, known, v); ok {
				app[field] = value
			}
		})
		list = append(list, app)
	}
	return list
}

// value reads one setting; ok is false where it is not set or was a problem.
func (w *walker) value(path string, k key, n *yaml.Node) (value any, ok bool) {
	if isNull(n) {
		return nil, false
	}
	if k.isList() {
		if n.Kind != yaml.SequenceNode {
			w.problem(n, "%s is a list: write [one, two], or one a line after dashes", path)
			return nil, false
		}
		list := make([]any, 0, len(n.Content))
		for _, item := range n.Content {
			if item.Kind != yaml.ScalarNode {
				w.problem(item, "%s takes plain values", path)
				return nil, false
			}
			list = append(list, item.Value)
		}
		return list, true
	}
	if n.Kind != yaml.ScalarNode {
		w.problem(n, "%s takes one plain value", path)
		return nil, false
	}
	value, err := k.parse(n.Value)
	if err != nil {
		w.problem(n, "%s: %v", path, err)
		return nil, false
	}
	return value, true
}

func (w *walker) isSection(name string) bool {
	for _, k := range w.keys {
		if strings.HasPrefix(k.path, name+".") {
			return true
		}
	}
	return false
}

// topNames lists what may stand at the left margin, and the full keys, for
// someone who wrote `log_level: debug` there.
func (w *walker) topNames() []string {
	var names []string
	top := reflect.TypeFor[Config]()
	for i := range top.NumField() {
		names = append(names, top.Field(i).Tag.Get("koanf"))
	}
	return append(names, paths(w.keys)...)
}

func paths(list []key) []string {
	out := make([]string, len(list))
	for i, k := range list {
		out[i] = k.path
	}
	return out
}
