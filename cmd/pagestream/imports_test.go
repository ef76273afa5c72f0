package main

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// module is the module path of this repository.
const module = "github.com/pagestream/pagestream"

// root is the path of the repository, relative to this package's directory.
const root = "../.."

// Package names in this file are relative to the module, for example "streams/embedded".

// internal is the path prefix of the command's packages.
const internal = "cmd/pagestream/internal/"

// parts is an entry of layers for every package below internal that no other layer names: the
// single-purpose packages.
const parts = internal + "*"

// layers are listed from the bottom up. A package may import packages of lower layers and, subject to
// the rules below, packages of its own layer.
var layers = [][]string{
	{"domain"},
	{"internal/backoff"},
	{"internal/disk"},
	{"internal/nearest"},
	{"internal/yield"},
	{"internal/flatjson"},
	{"internal/journal"},
	{"streams"},
	{"projections"},
	{internal + "meta"},
	{internal + "graph"},
	{parts},
	{internal + "operate"},
	{internal + "api", internal + "console"},
	{internal + "server"},
	{internal + "dev"},
	{internal + "cli"},
	{"cmd/pagestream"},
}

// order returns the layers as one line of text.
func order() string {
	var names []string
	for _, l := range layers {
		names = append(names, strings.ReplaceAll(strings.Join(l, ", "), internal, ""))
	}
	return strings.ReplaceAll(strings.Join(names, " <- "), "*", "the single-purpose packages")
}

// layer returns the index of a package's layer, or -1 if the package is in no layer.
func layer(pkg string) int {
	other := -1
	for i, names := range layers {
		for _, name := range names {
			switch {
			case name == parts && strings.HasPrefix(pkg, internal):
				other = max(other, i)
			case name == "cmd/pagestream" && pkg == name, name != "cmd/pagestream" && within(pkg, name):
				return i
			}
		}
	}
	return other
}

// within reports whether pkg is dir or a package below it.
func within(pkg, dir string) bool { return pkg == dir || strings.HasPrefix(pkg, dir+"/") }

// forTests are the packages that only tests and these packages themselves may import.
var forTests = []string{"streams/streamstest", "projections/projectionstest"}

// readsSettings are the packages that may import config.
var readsSettings = []string{internal + "server", internal + "dev", internal + "cli"}

// broken formats which rule an import breaks and what to do instead.
func broken(rule, instead string) string {
	return fmt.Sprintf("this breaks the rule %q. Instead: %s", rule, instead)
}

// remedy returns "" if pkg may import imp. Otherwise it returns which rule that breaks and what to do
// instead. test is true if the importing file is a _test.go file.
func remedy(pkg, imp string, test bool) string {
	ours, isOurs := strings.CutPrefix(imp, module+"/")
	if !isOurs {
		return remedyOutside(pkg, imp, test)
	}
	if pkg == ours { // an external test package
		return ""
	}
	if pkg == internal+"faults" {
		return broken("the fault suite shares no code with the program", "sign, build and read what it needs there")
	}
	if test && pkg == internal+"server" {
		return "" // the tests of the whole program are there
	}
	switch {
	case within(ours, "config") && slices.Contains(readsSettings, pkg):
		return ""
	case within(ours, "config"):
		return broken("only server, dev and cli read settings", "give the package an Options struct, which server fills")
	case within(pkg, "config") && ours == "internal/nearest":
		return ""
	case within(pkg, "config"):
		return broken("config imports only internal/nearest of this module", "let server turn settings into Options")
	case slices.Contains(forTests, ours) && !test && !slices.Contains(forTests, pkg):
		return broken("test helpers are for tests",
			"move what is needed from "+ours+" into a new package, or the use into a _test.go file")
	}
	from, to := layer(pkg), layer(ours)
	switch {
	case from < 0:
		return broken("every package is in a layer", "move "+pkg+" under one of "+order())
	case to < 0:
		return broken("every package is in a layer", "move "+ours+" under one of "+order())
	case from < to:
		return broken("imports go in one direction: "+order(),
			"move what both need down, or declare a small interface in "+pkg+" and let server pass the implementation")
	case from > to:
		return ""
	}
	return remedySibling(pkg, ours, test)
}

// remedySibling is remedy for two packages of the same layer.
func remedySibling(pkg, ours string, test bool) string {
	switch layers[layer(pkg)][0] {
	case "domain":
		if ours == "domain" {
			return ""
		}
		return broken("packages below domain import only domain", "put what both need into domain")
	case "streams":
		if ours == "streams" || test || pkg == "streams/streamstest" {
			return ""
		}
		return broken("streams depends on no server", "take a jetstream.JetStream")
	case "projections":
		switch {
		case ours == "projections/store", ours == "projections" && pkg != "projections/store":
			return ""
		case slices.Contains(forTests, ours) && test, slices.Contains(forTests, pkg) && ours == "projections":
			return ""
		case pkg == "projections" && test: // the runner is tested with a real read model
			return ""
		}
		return broken("read models don't import each other", "combine them in internal/operate, api or console")
	}
	part := func(p string) string { return strings.Split(p, "/")[3] }
	if part(pkg) == part(ours) {
		return ""
	}
	return broken("siblings in internal don't import each other",
		"put types that both need into internal/meta; or declare a small interface in "+pkg+
			" and connect the two in internal/server")
}

// only lists other modules that only the named packages may import.
var only = []struct {
	module  string
	pkgs    []string
	instead string
}{
	{
		"github.com/nats-io/nats-server",
		[]string{"streams/embedded", "streams/streamstest"},
		"use streams/embedded, or nats.go for the client side",
	},
	{"go.etcd.io/bbolt", []string{"projections/store"}, "use projections/store"},
	{"github.com/knadh/koanf", []string{"config"}, "take an Options struct; config reads settings"},
	{"github.com/alecthomas/kong", []string{internal + "cli"}, "read flags in internal/cli"},
	{"filippo.io/age", []string{internal + "backup"}, "encrypt files of a backup in internal/backup"},
	{jsonModule, []string{"domain"}, "use encoding/json, or a function of domain"},
}

// jsonModule is encoding/json/v2, which is in the standard library from Go 1.27 on.
const jsonModule = "github.com/go-json-experiment/json"

// remedyOutside is remedy for imports of the standard library and of other modules.
func remedyOutside(pkg, imp string, test bool) string {
	first, _, _ := strings.Cut(imp, "/")
	if !strings.Contains(first, ".") { // the standard library
		doesIO := within(imp, "net/http") || within(imp, "os/exec") || within(imp, "database/sql")
		if within(pkg, "domain") && !test && doesIO {
			return broken("domain does no I/O", "do this in a layer above")
		}
		return ""
	}
	if test {
		return "" // tests may import any module
	}
	if within(pkg, "domain") && !within(imp, jsonModule) {
		return broken("domain imports only the standard library and encoding/json/v2", "do this in a layer above")
	}
	for _, o := range only {
		if within(imp, o.module) && !slices.Contains(o.pkgs, pkg) {
			return broken("only "+strings.Join(o.pkgs, ", ")+" imports "+o.module, o.instead)
		}
	}
	return ""
}

// TestImportsGoInOneDirection checks every import of this repository.
func TestImportsGoInOneDirection(t *testing.T) {
	files := 0
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			base := d.Name()
			ignored := strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" || base == "vendor"
			if name != root && ignored {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		files++
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range parsed.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			assert.Empty(t, remedy(path.Dir(rel), imp, strings.HasSuffix(rel, "_test.go")),
				"%s imports %s", rel, imp)
		}
		return nil
	})
	require.NoError(t, err)
	require.GreaterOrEqual(t, files, 10,
		"only %d files were checked: is %q still the repository's root?", files, root)
}

// TestImportRules checks the rules themselves with imports that must be refused or allowed.
func TestImportRules(t *testing.T) {
	const cmd = "cmd/pagestream"
	our := func(p string) string { return module + "/" + p }
	for _, c := range []struct {
		pkg, imp string
		test, ok bool
	}{
		{"domain", "encoding/json", false, true},
		{"domain", "net/http", false, false},
		{"domain", "github.com/google/uuid", false, false},
		{"domain", "github.com/go-json-experiment/json/jsontext", false, true},
		{"domain/messenger", "github.com/go-json-experiment/json", false, false},
		{"streams", "github.com/go-json-experiment/json", false, false},
		{"domain", "pgregory.net/rapid", true, true},
		{"domain", our("domain/messenger"), false, false},
		{"domain", our("streams"), false, false},
		{"domain", our("internal/backoff"), false, false},
		{"internal/backoff", our("streams"), false, false},
		{"internal/other", our("domain"), false, false},
		{"streams", our("internal/backoff"), false, true},
		{"projections", our("internal/backoff"), false, true},
		{cmd + "/internal/graph", our("internal/backoff"), false, true},
		{"config", our("internal/backoff"), false, false},
		{"config", our("internal/nearest"), false, true},
		{"domain/messenger", our("domain"), false, true},
		{"domain/messenger", our("domain/seal"), false, false},
		{"domain/messenger", our("domain/messenger"), true, true},
		{"domain/seal", "golang.org/x/crypto/nacl/box", false, false},
		{"streams", our("domain"), false, true},
		{"streams", our("domain/messenger"), false, true},
		{"streams", our("projections"), false, false},
		{"streams", our("projections"), true, false},
		{"streams", our("streams/embedded"), false, false},
		{"streams", our("streams/streamstest"), false, false},
		{"streams", our("streams/streamstest"), true, true},
		{"streams", "github.com/nats-io/nats.go", false, true},
		{"streams", "github.com/nats-io/nats-server/v2/server", false, false},
		{"streams", "github.com/nats-io/nats-server/v2/server", true, true},
		{"streams/embedded", "github.com/nats-io/nats-server/v2/server", false, true},
		{"streams/streamstest", "github.com/nats-io/nats-server/v2/server", false, true},
		{"streams/streamstest", our("streams/embedded"), false, true},
		{"projections", our("streams"), false, true},
		{"projections", our("projections/store"), false, true},
		{"projections", our("projections/pages"), false, false},
		{"projections", our("streams/streamstest"), false, false},
		{"projections", our("streams/streamstest"), true, true},
		{"projections", "go.etcd.io/bbolt", false, false},
		{"projections/store", "go.etcd.io/bbolt", false, true},
		{"projections/store", our("projections"), false, false},
		{"projections/pages", our("projections"), false, true},
		{"projections/pages", our("projections/store"), false, true},
		{"projections/pages", our("projections/deliveries"), false, false},
		{"projections/pages", our("projections/deliveries"), true, false},
		{"projections/pages", our("projections/projectionstest"), true, true},
		{"projections/pages", our("projections/projectionstest"), false, false},
		{"projections/pages", our("config"), false, false},
		{"projections/comments", our("projections"), false, true},
		{"projections/comments", our("projections/conversations"), false, false},
		{"projections/projectionstest", our("projections"), false, true},
		{"projections/projectionstest", our("streams/streamstest"), false, true},
		{cmd + "/internal/api", our("projections/pages"), false, true},
		{cmd + "/internal/api", our("domain/seal"), false, true},
		{cmd + "/internal/api", our(cmd + "/internal/webhook"), false, true},
		{cmd + "/internal/api", our(cmd + "/internal/operate"), false, true},
		{cmd + "/internal/api", our(cmd + "/internal/console"), false, false},
		{cmd + "/internal/console", our(cmd + "/internal/api"), false, false},
		{cmd + "/internal/api", our(cmd + "/internal/server"), false, false},
		{cmd + "/internal/api", our(cmd + "/internal/api/sse"), false, true},
		{cmd + "/internal/api", our("config"), false, false},
		{cmd + "/internal/api", our("config"), true, false},
		{cmd + "/internal/api", our(cmd), false, false},
		{cmd + "/internal/meta", our("projections/pages"), false, true},
		{cmd + "/internal/meta", our(cmd + "/internal/graph"), false, false},
		{cmd + "/internal/graph", our(cmd + "/internal/meta"), false, true},
		{cmd + "/internal/graph", our(cmd + "/internal/connect"), false, false},
		{cmd + "/internal/connect", our(cmd + "/internal/meta"), false, true},
		{cmd + "/internal/connect", our(cmd + "/internal/graph"), false, true},
		{cmd + "/internal/connect", our(cmd + "/internal/reconcile"), false, false},
		{cmd + "/internal/connect", our(cmd + "/internal/operate"), false, false},
		{cmd + "/internal/fakegraph", our(cmd + "/internal/loadgen"), false, false},
		{cmd + "/internal/loadgen", our(cmd + "/internal/webhook"), true, false},
		{cmd + "/internal/operate", our(cmd + "/internal/connect"), false, true},
		{cmd + "/internal/operate", our(cmd + "/internal/api"), false, false},
		{cmd + "/internal/operate", our("config"), false, false},
		{cmd + "/internal/server", our("config"), false, true},
		{cmd + "/internal/server", our(cmd + "/internal/webhook"), false, true},
		{cmd + "/internal/server", our(cmd + "/internal/cli"), false, false},
		{cmd + "/internal/server", our(cmd + "/internal/cli"), true, true},
		{cmd + "/internal/server", our("streams/streamstest"), false, false},
		{cmd + "/internal/server", our("streams/streamstest"), true, true},
		{cmd + "/internal/dev", our(cmd + "/internal/server"), false, true},
		{cmd + "/internal/cli", our("config"), false, true},
		{cmd + "/internal/cli", our(cmd + "/internal/server"), false, true},
		{cmd + "/internal/cli", "github.com/alecthomas/kong", false, true},
		{cmd + "/internal/api", "github.com/alecthomas/kong", false, false},
		{cmd, our(cmd + "/internal/cli"), false, true},
		{cmd, our("config"), false, false},
		{cmd, "github.com/alecthomas/kong", false, false},
		{cmd, "go.etcd.io/bbolt", false, false},
		{"config", "github.com/knadh/koanf/v2", false, true},
		{"config", our("domain"), false, false},
		{"config", our("config"), true, true},
		{"streams", "github.com/knadh/koanf/v2", false, false},
		{cmd + "/internal/faults", our("domain"), true, false},
		{cmd + "/internal/faults", our(cmd + "/internal/meta"), true, false},
		{cmd + "/internal/faults", "github.com/stretchr/testify/require", true, true},
		{"tools/x", our("domain"), false, false},
		{"streams", our("tools/x"), false, false},
	} {
		got := remedy(c.pkg, c.imp, c.test)
		require.Equal(t, c.ok, got == "", "%s imports %s (test %v)", c.pkg, c.imp, c.test)
		if got != "" {
			require.Contains(t, got, "the rule", "%s imports %s (test %v)", c.pkg, c.imp, c.test)
			require.Contains(t, got, "Instead: ", "%s imports %s (test %v)", c.pkg, c.imp, c.test)
		}
	}
}

// TestMainIsThin checks that package main has only main.go and tests. Everything else is in internal.
func TestMainIsThin(t *testing.T) {
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, f := range files {
		if f != "main.go" {
			require.True(t, strings.HasSuffix(f, "_test.go"),
				"%s is in package main: the command line goes into internal/cli, the running program into "+
					"internal/server, an operation into internal/operate", f)
		}
	}
}

// top lists the names that are allowed at the top level of the repository, in addition to dot files
// and ignored files.
var top = []string{
	"LICENSE", "README.md", "Taskfile.yml", "cmd", "config", "domain", "go.mod", "go.sum",
	"internal", "projections", "streams",
}

// TestTopLevel checks that the top level of the repository has only the allowed names.
func TestTopLevel(t *testing.T) {
	entries, err := os.ReadDir(root)
	require.NoError(t, err)
	ignore, err := os.ReadFile(filepath.Join(root, ".gitignore"))
	require.NoError(t, err)
	patterns := strings.Fields(string(ignore))
	require.Empty(t, disallowed(entries, patterns),
		"these are at the top level, where only %s are allowed: move them into one of the folders, or build into bin/",
		strings.Join(top, ", "))
	listed := []fs.DirEntry{entry("pkg"), entry("cmd"), entry(".github"), entry("bin"), entry("cpu.prof")}
	require.Equal(t, []string{"pkg"}, disallowed(listed, []string{"/bin/", "*.prof"}), "the rule itself")
}

// disallowed returns the names that are not allowed at the top level.
func disallowed(entries []fs.DirEntry, ignored []string) []string {
	var out []string
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") || slices.Contains(top, name) {
			continue
		}
		isIgnored := slices.ContainsFunc(ignored, func(p string) bool {
			ok, err := path.Match(strings.Trim(p, "/"), name)
			return ok && err == nil
		})
		if isIgnored {
			continue
		}
		out = append(out, name)
	}
	return out
}

// entry is a directory entry with that name.
type entry string

func (e entry) Name() string             { return string(e) }
func (entry) IsDir() bool                { return true }
func (entry) Type() fs.FileMode          { return fs.ModeDir }
func (entry) Info() (fs.FileInfo, error) { return nil, fs.ErrInvalid }

// TestWhereDoIAdd checks that the files named in "Where do I add ..." of the design notes exist.
func TestWhereDoIAdd(t *testing.T) {
	notes, err := os.ReadFile("DESIGN.md")
	require.NoError(t, err)
	_, section, _ := strings.Cut(string(notes), "## Where do I add ...")
	section, _, _ = strings.Cut(section, "\n## ")
	rows, named := 0, 0
	for line := range strings.Lines(section) {
		if !strings.HasPrefix(line, "| ") {
			continue
		}
		rows++
		for i, name := range strings.Split(line, "`") {
			if i%2 == 0 || !strings.Contains(name, "/") || strings.ContainsAny(name, " ") {
				continue // not in backticks, or not a file name
			}
			dir := name
			base := path.Base(name)
			if strings.Contains(base, "NAME") || strings.Contains(base, "NOUN") || strings.Contains(base, "EDGE") {
				dir = path.Dir(name)
			}
			dir = strings.Split(dir, "/NAME")[0]
			named++
			_, top := os.Stat(filepath.Join(root, dir))
			if top != nil {
				_, in := os.Stat(filepath.Join("internal", dir))
				require.NoError(t, in, "the design notes name %s, which does not exist", name)
			}
		}
	}
	require.GreaterOrEqual(t, rows, 12)
	require.GreaterOrEqual(t, named, 25)
}
