package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFile bounds a configuration file in bytes.
const maxFile = 1 << 20

// parseFile returns the settings in a file, by path, and what is wrong with it. It
// knows every key, and it says on which line a mistake is.
//
// Scalars are taken as they are written, not as YAML guesses them: an app
// secret of digits, or of digits and one "e", is no number.
func parseFile(name string, b []byte) (map[string]any, []error) {
	dec := yaml.NewDecoder(bytes.NewReader(b))
	var doc yaml.Node
	err := dec.Decode(&doc)
	switch {
	case errors.Is(err, io.EOF):
		return nil, nil // nothing but comments
	case err != nil:
		return nil, []error{fmt.Errorf("%s: %s", name, syntax(err))}
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, []error{fmt.Errorf("%s: has more than one YAML document: keep the first and remove what follows the second ---", name)}
	}
	w := walker{name: name}
	settings := w.root(doc.Content[0])
	return settings, w.problems
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
		switch {
		case name == "apps":
			if apps := w.apps(v); apps != nil {
				out["apps"] = apps
			}
		case slices.Contains(sections(), name):
			w.settings(v, name, name+".", keys, out)
		default:
			// The full keys are for someone who wrote `log_level: debug` here.
			w.problem(k, "%s", unknown(name, slices.Concat(sections(), []string{"apps"}, paths(keys))))
		}
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
		app := map[string]any{}
		w.settings(item, fmt.Sprintf("apps[%d]", i), "", appKeys, app)
		list = append(list, app)
	}
	return list
}

// settings reads a mapping of settings into out. Each is the known key of its
// name behind the prefix.
func (w *walker) settings(n *yaml.Node, where, prefix string, known []key, out map[string]any) {
	w.each(n, where, func(name string, k, v *yaml.Node) {
		path := prefix + name
		setting, ok := find(known, path)
		if !ok {
			w.problem(k, "%s", unknown(path, paths(known)))
			return
		}
		if value, ok := w.value(where+"."+name, setting, v); ok {
			out[path] = value
		}
	})
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
		list := make([]string, 0, len(n.Content))
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
