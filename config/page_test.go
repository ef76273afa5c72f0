package config

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the page of all settings")

// described returns what the example says about a group of settings, by name, and which of them it sets. The
// comment before a setting describes it; a setting may itself be commented out.
func described(lines []string, group []key) (about map[string][]string, set map[string]string) {
	about, set = map[string][]string{}, map[string]string{}
	var comment, last []string
	for _, line := range lines {
		text := strings.TrimPrefix(strings.TrimSpace(line), "- ")
		said, isComment := strings.CutPrefix(text, "#")
		name, value, isSetting := strings.Cut(strings.TrimSpace(said), ": ")
		i := slices.IndexFunc(group, func(k key) bool { return k.path[strings.LastIndex(k.path, ".")+1:] == name })
		switch {
		case isSetting && i >= 0 && about[group[i].path] == nil:
			if len(comment) > 0 { // otherwise the one before is about both
				last = comment
			}
			about[group[i].path], comment = last, nil
			if !isComment {
				set[group[i].path] = value
			}
		case isComment:
			comment = append(comment, strings.TrimPrefix(said, " "))
		default:
			comment = nil
		}
	}
	return about, set
}

// kindOf returns the kind of a setting's value in words.
func kindOf(k key) string {
	switch k.typ {
	case reflect.TypeFor[time.Duration]():
		return "duration"
	case reflect.TypeFor[ByteSize]():
		return "size"
	case reflect.TypeFor[int]():
		return "number"
	case reflect.TypeFor[bool]():
		return "true or false"
	}
	if k.isList() {
		return "list"
	}
	return "text"
}

// escape escapes what Markdown would read as a tag or as emphasis.
var escape = strings.NewReplacer("<", `\<`, "*", `\*`)

// page returns the page of all settings, from the example and the fields of [Config].
func page(t *testing.T) string {
	var b strings.Builder
	b.WriteString(`# Configuration

<!-- ` + "`task gen:docs`" + ` writes this page from config/example.yaml and the fields of package config. -->

A setting is read from the file (` + "`--config FILE` or `PAGESTREAM_CONFIG`" + `), then from its environment variable, then
from a flag; a later source overrides an earlier one. Durations are written ` + "`500ms`, `4s`, `10m`; sizes `64KiB`, `8MiB`,\n" +
		"`10GiB`" + `. In a variable the values of a list are separated by commas.

` + "```sh" + `
pagestream config example    # a file with every setting and its meaning
pagestream config check      # of the file in force: is it valid, and can all that it names be read?
pagestream config print      # what is in force, without secrets
` + "```" + `

A name that is not a setting, an empty secret and an invalid value are errors, with the nearest name.
`)
	group := func(title string, lines []string, keys []key) {
		fmt.Fprintf(&b, "\n## %s\n", title)
		about, set := described(lines, keys)
		for _, k := range keys {
			require.NotEmpty(t, about[k.path], "config/example.yaml says nothing about %s", k.path)
			value := "default: see below"
			if v, ok := set[k.path]; ok {
				value = "default `" + v + "`"
				if !strings.Contains(k.path, ".") && strings.Contains(v, `"`) && v != `""` {
					value = "example `" + v + "`" // an app's id and secrets
				}
			}
			fmt.Fprintf(&b, "\n### `%s`\n\n%s · %s · `%s`\n\n", k.path, kindOf(k), value, k.env)
			fenced := false
			for _, line := range about[k.path] {
				if indented := strings.HasPrefix(line, "  "); indented != fenced {
					b.WriteString(map[bool]string{true: "\n```text\n", false: "```\n\n"}[indented])
					fenced = indented
				}
				line = strings.TrimPrefix(line, "  ")
				if !fenced {
					line = escape.Replace(line)
				}
				b.WriteString(line + "\n")
			}
			if fenced {
				b.WriteString("```\n")
			}
		}
	}
	settings, apps, ok := strings.Cut(example, "# The Meta apps that send webhooks here.")
	require.True(t, ok)
	for _, name := range sections() {
		_, lines, ok := strings.Cut("\n"+settings, "\n"+name+":\n")
		require.True(t, ok, "config/example.yaml has no section %s", name)
		var own []string
		for line := range strings.Lines(lines) {
			if line != "\n" && !strings.HasPrefix(line, " ") {
				break
			}
			own = append(own, line)
		}
		group(name, own, slices.DeleteFunc(slices.Clone(keys), func(k key) bool {
			return !strings.HasPrefix(k.path, name+".")
		}))
	}
	intro, list, ok := strings.Cut(apps, "# apps:\n")
	require.True(t, ok)
	var lines []string
	for line := range strings.Lines(list) {
		lines = append(lines, strings.TrimPrefix(line, "#"))
	}
	text := "The Meta apps that send webhooks here." + strings.ReplaceAll(intro, "\n# ", "\n")
	group("apps", lines, appKeys)
	head, tail, _ := strings.Cut(b.String(), "\n## apps\n")
	return head + "\n## apps\n\n" + escape.Replace(strings.TrimSpace(text)) + "\n\nEach app of the list has " +
		"these settings. `secrets` and `verify_token` are required, here or in a file.\n" + tail
}

// TestConfigurationPage compares the page of all settings with the example and the code. Write it with -update.
func TestConfigurationPage(t *testing.T) {
	name := filepath.Join("..", "cmd", "pagestream", "docs", "configuration.md")
	want := page(t)
	if *update {
		require.NoError(t, os.WriteFile(name, []byte(want), 0o644))
		return
	}
	got, err := os.ReadFile(name)
	require.NoError(t, err)
	require.Equal(t, want, string(got), "the page is old: task gen:docs")
}
