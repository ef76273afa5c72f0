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

// maxFile is the maximum size of a configuration file in bytes.
const maxFile = 1 << 20

// parseFile returns the settings in a file, by path, and the problems in it, each
// with its line. An unknown key is a problem.
//
// Scalars are used as they are written, without YAML's implicit types: an app
// secret of digits, or of digits and one "e", must not become a number.
func parseFile(name string, b []byte) (map[string]any, []error) {
	dec := yaml.NewDecoder(bytes.NewReader(b))
	var doc yaml.Node
	err := dec.Decode(&doc)
	switch {
	case errors.Is(err, io.EOF):
		return nil, nil // the file is empty or has comments only
	case err != nil:
		return nil, []error{fmt.Errorf("%s: %s", name, syntaxError(err))}
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, []error{fmt.Errorf("%s: has more than one YAML document: "+
			"keep the first and remove everything after the second ---", name)}
	}
	w := walker{name: name}
	settings := w.root(doc.Content[0])
	return settings, w.problems
}

// syntaxError returns the text of a YAML error without any value of the file.
func syntaxError(err error) string {
	text := err.Error()
	if strings.Contains(text, "anchor") {
		// The error would quote an unquoted secret that begins with & or *.
		return "YAML: a value that begins with & or * must be quoted"
	}
	return text
}

// walker visits the nodes of a file and collects problems.
type walker struct {
	name     string // the file's
	problems []error
}

func (w *walker) problem(n *yaml.Node, format string, args ...any) {
	w.problems = append(w.problems, fmt.Errorf("%s line %d: %s", w.name, n.Line, fmt.Sprintf(format, args...)))
}

// isNull reports whether a key has no value, as in `url:`. It then counts as not
// set.
func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// eachKey calls f for every key of a mapping.
func (w *walker) eachKey(n *yaml.Node, where string, f func(name string, k, v *yaml.Node)) {
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		w.problem(n, "%s takes keys, one per line, indented: see pagestream config example", where)
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind != yaml.ScalarNode {
			w.problem(k, "%s has a key that is not a name", where)
			continue
		}
		if line, found := seen[k.Value]; found {
			w.problem(k, "%s is set on line %d already: remove one", k.Value, line)
			continue
		}
		seen[k.Value] = k.Line
		f(k.Value, k, v)
	}
}

func (w *walker) root(n *yaml.Node) map[string]any {
	out := map[string]any{}
	w.eachKey(n, "the file", func(name string, k, v *yaml.Node) {
		switch {
		case name == "apps":
			if apps := w.apps(v); apps != nil {
				out["apps"] = apps
			}
		case slices.Contains(sections(), name):
			w.settings(v, name, name+".", keys, out)
		default:
			// Full paths are candidates too, for a mistake such as `log_level: debug`.
			w.problem(k, "%s", unknownSetting(name, slices.Concat(sections(), []string{"apps"}, paths(keys))))
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

// settings parses a mapping of settings into out, by path. The path of a setting
// is the prefix and its name.
func (w *walker) settings(n *yaml.Node, where, prefix string, known []key, out map[string]any) {
	w.eachKey(n, where, func(name string, k, v *yaml.Node) {
		path := prefix + name
		setting, ok := find(known, path)
		if !ok {
			w.problem(k, "%s", unknownSetting(path, paths(known)))
			return
		}
		if value, ok := w.value(where+"."+name, setting, v); ok {
			out[path] = value
		}
	})
}

// value parses one setting; ok is false if it is not set or invalid.
func (w *walker) value(path string, k key, n *yaml.Node) (value any, ok bool) {
	if isNull(n) {
		return nil, false
	}
	if k.isList() {
		if n.Kind != yaml.SequenceNode {
			w.problem(n, "%s is a list: write [one, two], or one per line after dashes", path)
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
