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
)

// module is the path that all packages of this repository begin with.
const module = "github.com/pagestream/pagestream"

// root is the repository, seen from this package's directory.
const root = "../.."

// Packages in this file are named relative to the module: "streams/embedded".

// layers run from the bottom up: a package imports from its own layer, subject
// to the rules below, and from lower ones.
var layers = []string{"domain", "streams", "projections", "cmd/pagestream/internal", "cmd/pagestream"}

// layer returns the place of a package in layers, or -1 if it is in none.
func layer(pkg string) int {
	for i, l := range layers {
		if within(pkg, l) {
			return i
		}
	}
	return -1
}

// within reports whether pkg is dir or a package below it.
func within(pkg, dir string) bool { return pkg == dir || strings.HasPrefix(pkg, dir+"/") }

// forTests are the packages that only tests, and each other, may import.
var forTests = []string{"streams/streamstest", "projections/projectionstest"}

// remedy returns "" if pkg may import imp, and otherwise what to do instead.
// test says that the importing file is a _test.go file.
func remedy(pkg, imp string, test bool) string {
	ours, isOurs := strings.CutPrefix(imp, module+"/")
	if !isOurs {
		return remedyOutside(pkg, imp, test)
	}
	if pkg == ours { // an external test package
		return ""
	}
	switch {
	case pkg == "cmd/pagestream" && (test || !slices.Contains(forTests, ours)):
		return "" // it wires everything
	case ours == "config" || within(ours, "config"):
		return "only cmd/pagestream reads the configuration: give the package an Options struct and fill it there"
	case within(pkg, "config"):
		return "config imports nothing of ours: let cmd/pagestream turn settings into Options"
	case slices.Contains(forTests, ours) && !test && !slices.Contains(forTests, pkg):
		return ours + " is for tests: move what is needed into a package of its own, or the use into a _test.go file"
	}
	from, to := layer(pkg), layer(ours)
	switch {
	case from < 0:
		return pkg + " is in no layer: move it under one of " + strings.Join(layers, ", ")
	case to < 0:
		return ours + " is in no layer: move it under one of " + strings.Join(layers, ", ")
	case from < to:
		return fmt.Sprintf("imports run %s: declare an interface in %s and let cmd/pagestream pass the implementation", strings.Join(layers, " <- "), pkg)
	case from > to:
		return ""
	}
	return remedySibling(pkg, ours, test)
}

// remedySibling is for two packages of one layer.
func remedySibling(pkg, ours string, test bool) string {
	switch layers[layer(pkg)] {
	case "domain":
		if ours == "domain" {
			return ""
		}
		return "packages below domain import domain alone: put what both need into domain"
	case "streams":
		if ours == "streams" || test || pkg == "streams/streamstest" {
			return ""
		}
		return "streams and streams/embedded don't depend on servers or each other: take a jetstream.JetStream instead"
	case "projections":
		switch {
		case ours == "projections/store", ours == "projections" && pkg != "projections/store":
			return ""
		case slices.Contains(forTests, ours) && test, slices.Contains(forTests, pkg) && ours == "projections":
			return ""
		case pkg == "projections" && test: // the runner is tested with a real read model
			return ""
		}
		return "read models don't know each other: they import projections and projections/store; combine them in cmd/pagestream/internal/api"
	case "cmd/pagestream/internal":
		part := func(p string) string { return strings.Split(p, "/")[3] }
		if part(pkg) == part(ours) {
			return ""
		}
		return "packages in cmd/pagestream/internal don't import each other: declare a small interface here and wire it in cmd/pagestream/program.go"
	}
	return "only cmd/pagestream itself is in the top layer"
}

// only lists outside modules that one package keeps to itself.
var only = []struct {
	module  string
	pkgs    []string
	instead string
}{
	{"github.com/nats-io/nats-server", []string{"streams/embedded", "streams/streamstest"}, "use streams/embedded, or nats.go for the client side"},
	{"go.etcd.io/bbolt", []string{"projections/store"}, "use projections/store"},
	{"github.com/knadh/koanf", []string{"config"}, "take an Options struct; settings are read in config"},
	{"github.com/alecthomas/kong", []string{"cmd/pagestream"}, "flags are read in cmd/pagestream"},
}

// remedyOutside is for what is not ours: the standard library and modules.
func remedyOutside(pkg, imp string, test bool) string {
	first, _, _ := strings.Cut(imp, "/")
	if !strings.Contains(first, ".") { // the standard library
		if within(pkg, "domain") && !test && (within(imp, "net/http") || within(imp, "os/exec") || within(imp, "database/sql")) {
			return "domain does no I/O: do this in a layer above"
		}
		return ""
	}
	if test {
		return "" // tests may look at what lies beneath
	}
	if within(pkg, "domain") {
		return "domain imports the standard library only: do this in a layer above"
	}
	for _, o := range only {
		if within(imp, o.module) && !slices.Contains(o.pkgs, pkg) {
			return fmt.Sprintf("only %s imports %s: %s", strings.Join(o.pkgs, ", "), o.module, o.instead)
		}
	}
	return ""
}

func TestImportsRunOneWay(t *testing.T) {
	files := 0
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			base := d.Name()
			if name != root && (strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" || base == "vendor") {
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
			if r := remedy(path.Dir(rel), imp, strings.HasSuffix(rel, "_test.go")); r != "" {
				t.Errorf("%s imports %s: %s", rel, imp, r)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 10 {
		t.Errorf("only %d files were looked at: is %q still the repository's root?", files, root)
	}
}

// The rules themselves: each of these pairs must be refused or allowed.
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
		{"domain", "pgregory.net/rapid", true, true},
		{"domain", our("domain/messenger"), false, false},
		{"domain", our("streams"), false, false},
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
		{"projections/projectionstest", our("projections"), false, true},
		{"projections/projectionstest", our("streams/streamstest"), false, true},
		{cmd + "/internal/api", our("projections/pages"), false, true},
		{cmd + "/internal/api", our("domain/seal"), false, true},
		{cmd + "/internal/api", our(cmd + "/internal/webhook"), false, false},
		{cmd + "/internal/api", our(cmd + "/internal/api/sse"), false, true},
		{cmd + "/internal/api", our("config"), false, false},
		{cmd + "/internal/api", our("config"), true, false},
		{cmd + "/internal/api", our(cmd), false, false},
		{cmd + "/internal/fakegraph", our(cmd + "/internal/graph"), false, false},
		{cmd + "/internal/loadgen", our(cmd + "/internal/webhook"), true, false},
		{cmd + "/internal/api", "github.com/alecthomas/kong", false, false},
		{cmd, our("config"), false, true},
		{cmd, our(cmd + "/internal/webhook"), false, true},
		{cmd, our("streams/streamstest"), false, false},
		{cmd, our("streams/streamstest"), true, true},
		{cmd, "go.etcd.io/bbolt", false, false},
		{"config", "github.com/knadh/koanf/v2", false, true},
		{"config", our("domain"), false, false},
		{"config", our("config"), true, true},
		{"streams", "github.com/knadh/koanf/v2", false, false},
		{"tools/x", our("domain"), false, false},
		{"streams", our("tools/x"), false, false},
	} {
		got := remedy(c.pkg, c.imp, c.test)
		if (got == "") != c.ok {
			t.Errorf("%s imports %s (test %v): remedy %q, want allowed %v", c.pkg, c.imp, c.test, got, c.ok)
		}
	}
}

// top is what may stand at the top of the repository, beside dot files and what
// .gitignore leaves out.
var top = []string{"LICENSE", "README.md", "Taskfile.yml", "cmd", "config", "domain", "go.mod", "go.sum", "projections", "streams"}

func TestTopLevel(t *testing.T) {
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	ignore, err := os.ReadFile(filepath.Join(root, ".gitignore"))
	if err != nil {
		t.Fatal(err)
	}
	patterns := strings.Fields(string(ignore))
	for _, name := range strayed(entries, patterns) {
		t.Errorf("%s stands at the top level, which holds only %s: move it below one of the folders, or build into bin/", name, strings.Join(top, ", "))
	}
	if got := strayed([]fs.DirEntry{entry("pkg"), entry("cmd"), entry(".github"), entry("bin"), entry("cpu.prof")}, []string{"/bin/", "*.prof"}); !slices.Equal(got, []string{"pkg"}) {
		t.Errorf("the rule itself found %v, want pkg", got)
	}
}

// strayed returns the names that may not stand at the top level.
func strayed(entries []fs.DirEntry, ignored []string) []string {
	var out []string
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") || slices.Contains(top, name) {
			continue
		}
		if slices.ContainsFunc(ignored, func(p string) bool { ok, err := path.Match(strings.Trim(p, "/"), name); return ok && err == nil }) {
			continue
		}
		out = append(out, name)
	}
	return out
}

// entry is a directory entry of that name.
type entry string

func (e entry) Name() string             { return string(e) }
func (entry) IsDir() bool                { return true }
func (entry) Type() fs.FileMode          { return fs.ModeDir }
func (entry) Info() (fs.FileInfo, error) { return nil, fs.ErrInvalid }
