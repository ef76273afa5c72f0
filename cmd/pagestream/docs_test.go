package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/cli"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/consumers"
	"github.com/pagestream/pagestream/cmd/pagestream/internal/ledgers"
	"github.com/pagestream/pagestream/projections/store"
	"github.com/pagestream/pagestream/streams/streamstest"
)

// TestMain lets a copy of the test binary that is called pagestream be the program. TestCommandsOfTheDocs runs
// it, and it may start itself again.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "pagestream" {
		main()
	}
	os.Exit(m.Run())
}

const readme = root + "/README.md"

// texts returns the name and the text of each page for users, README first, and of the pages beside them.
func texts(t *testing.T) (names []string, text map[string]string) {
	t.Helper()
	names, text = []string{readme}, map[string]string{}
	for _, pattern := range []string{"docs/*.md", "*.md"} {
		found, err := filepath.Glob(pattern)
		require.NoError(t, err)
		names = append(names, found...)
	}
	require.Greater(t, len(names), 15)
	for _, name := range names {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		text[name] = string(b)
	}
	return names, text
}

// isDoc reports whether a page is README or in docs, whose commands are checked.
func isDoc(name string) bool { return name == readme || strings.HasPrefix(name, "docs/") }

// fence is a fenced block of code.
var fence = regexp.MustCompile("(?ms)^```([^\\n`]*)\\n((?:.*?\\n)?)```$")

// TestReadmeIsThreeScreens checks that README stays short, and says early what to type.
func TestReadmeIsThreeScreens(t *testing.T) {
	_, text := texts(t)
	lines := strings.Split(text[readme], "\n")
	assert.LessOrEqual(t, len(lines), 150, "move it to a page of docs")
	first := strings.Join(lines[:50], "\n")
	for _, command := range []string{"go run ./cmd/pagestream dev", "go test ./..."} {
		assert.Regexp(t, `(?m)^`+regexp.QuoteMeta(command)+`( +#.*)?$`, first, "the first screen says what to type")
	}
	assert.Contains(t, first, "![", "the first screen has a picture")
	for line := range strings.Lines(text[readme]) {
		if !strings.HasPrefix(line, "|") && !strings.HasPrefix(line, "!") {
			assert.LessOrEqual(t, len([]rune(line)), 125, line)
		}
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	noSlug  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	inCode  = regexp.MustCompile("`[^`\n]+`")
)

// anchors returns the anchors of the headings of a page, as GitHub makes them.
func anchors(text string) (out []string) {
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		words := noSlug.ReplaceAllString(strings.ToLower(m[1]), "")
		out = append(out, strings.ReplaceAll(words, " ", "-"))
	}
	return out
}

// TestLinksOfTheDocs checks that each link of a page leads to a file, and to a heading if it names one, and that
// README leads to each page of docs.
func TestLinksOfTheDocs(t *testing.T) {
	names, text := texts(t)
	checked := 0
	var fromReadme []string
	for _, name := range names {
		plain := inCode.ReplaceAllString(fence.ReplaceAllString(text[name], ""), "")
		for _, m := range link.FindAllStringSubmatch(plain, -1) {
			u, err := url.Parse(m[1])
			require.NoError(t, err, "%s links to %s", name, m[1])
			if u.Scheme != "" {
				continue
			}
			checked++
			target := filepath.Clean(name)
			if u.Path != "" {
				target = filepath.Join(filepath.Dir(name), u.Path)
			}
			b, err := os.ReadFile(target)
			if err != nil {
				assert.Fail(t, "a link leads nowhere", "%s links to %s: %v", name, m[1], err)
				continue
			}
			if name == readme {
				fromReadme = append(fromReadme, strings.TrimPrefix(target, root+"/cmd/pagestream/"))
			}
			if u.Fragment != "" {
				assert.Contains(t, anchors(string(b)), u.Fragment, "%s links to %s", name, m[1])
			}
		}
	}
	assert.Greater(t, checked, 80)
	for _, name := range names {
		assert.True(t, name == readme || slices.Contains(fromReadme, name), "README has no link to %s", name)
	}
}

// TestGuaranteesNameTests checks that each row of the guarantees names a test, or says that there is none and why,
// and that each named test is in the package that the row names.
func TestGuaranteesNameTests(t *testing.T) {
	_, text := texts(t)
	named := regexp.MustCompile("`([a-z/]+)\\.(Test\\w+)`")
	const without = "**no test**: "
	rows, tests := 0, 0
	for line := range strings.Lines(text["docs/guarantees.md"]) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if !strings.HasPrefix(line, "| ") || len(cells) != 2 || cells[1] == "held by |" {
			assert.False(t, strings.HasPrefix(line, "| ") && len(cells) != 2, "not two cells: %s", line)
			continue
		}
		rows++
		found := named.FindAllStringSubmatch(cells[1], -1)
		_, why, none := strings.Cut(cells[1], without)
		assert.True(t, len(found) > 0 || none && len(why) > 10, "name a test, or say why there is none: %s", line)
		for _, m := range found {
			tests++
			assert.True(t, declares(t, m[1], m[2]), "there is no %s in package %s: %s", m[2], m[1], line)
		}
	}
	assert.Greater(t, rows, 100)
	assert.Greater(t, tests, 150)
}

// TestGuaranteesNameTheNumbers checks that numbers of the guarantees are those of the code.
func TestGuaranteesNameTheNumbers(t *testing.T) {
	_, text := texts(t)
	for _, want := range []string{
		fmt.Sprintf("publish their counts every %.0f s,", ledgers.DefaultEvery.Seconds()),
		fmt.Sprintf("in transactions of %s changes,", humanize.Comma(store.PartSize)),
		fmt.Sprintf("Its stream is bounded (%d MiB);", consumers.DefaultMaxBytes>>20),
	} {
		assert.Contains(t, text["docs/guarantees.md"], want)
	}
}

// declares reports whether a package, below the root or internal, has the test.
func declares(t *testing.T, pkg, test string) bool {
	t.Helper()
	for _, dir := range []string{filepath.Join(root, pkg), filepath.Join("internal", pkg)} {
		files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		require.NoError(t, err)
		for _, f := range files {
			b, err := os.ReadFile(f)
			require.NoError(t, err)
			if bytes.Contains(b, []byte("\nfunc "+test+"(t ")) {
				return true
			}
		}
	}
	return false
}

// TestMetricsOfTheDocs checks that each metric that a page names is one of the program's.
func TestMetricsOfTheDocs(t *testing.T) {
	b, err := os.ReadFile("internal/server/metrics.go")
	require.NoError(t, err)
	names, text := texts(t)
	found := 0
	for _, name := range names {
		for _, m := range regexp.MustCompile("`(pagestream_[a-z_]+)\\b[^`]*`").FindAllStringSubmatch(text[name], -1) {
			found++
			assert.Contains(t, string(b), `"`+m[1], "%s names a metric", name)
		}
	}
	assert.Greater(t, found, 10)
}

// ways are the words after sh that say what is done with a block: it is run, only parsed, or not even that,
// because it needs the network, root or another program.
var ways = []string{"", "parse", "skip"}

// block is a fenced block of shell commands.
type block struct {
	page, way, script string
	line              int
}

// blocks returns the blocks of shell commands of the docs, in order.
func blocks(t *testing.T) (out []block) {
	t.Helper()
	names, text := texts(t)
	for _, name := range names {
		if !isDoc(name) {
			continue
		}
		for _, m := range fence.FindAllStringSubmatchIndex(text[name], -1) {
			info, line := text[name][m[2]:m[3]], 1+strings.Count(text[name][:m[0]], "\n")
			way, isShell := strings.CutPrefix(info, "sh")
			way = strings.TrimSpace(way)
			assert.False(t, strings.Contains(info, "bash") || info == "shell", "%s:%d: call it sh", name, line)
			if isShell && assert.Contains(t, ways, way, "%s:%d", name, line) {
				out = append(out, block{page: name, way: way, script: text[name][m[4]:m[5]], line: line})
			}
		}
	}
	require.Greater(t, len(out), 25)
	return out
}

// fromSource is how README calls the program before it is installed.
const fromSource = "go run ./cmd/pagestream "

// commandLine finds a command of pagestream in a line, with what may be before it.
var commandLine = regexp.MustCompile(
	`^(?:sudo |podman exec pagestream )?pagestream ((?:[^"#|<>&;]|"[^"]*")+?)\s*(?:#.*|[|<>&;].*)?$`)

// commandOf returns the arguments of the pagestream command in a line; ok is false if it has none.
func commandOf(t *testing.T, line string) (args []string, ok bool) {
	t.Helper()
	line = strings.Replace(strings.TrimSpace(line), fromSource, "pagestream ", 1)
	m := commandLine.FindStringSubmatch(line)
	if m == nil {
		assert.False(t, strings.HasPrefix(line, "pagestream "), "can't find the command in %s", line)
		return nil, false
	}
	for i, part := range strings.Split(m[1], `"`) {
		if i%2 == 1 {
			args = append(args, part) // in quotes, after a space
		} else {
			args = append(args, strings.Fields(part)...)
		}
	}
	return args, true
}

// numbers are words in capitals for which a command wants a number.
var numbers = strings.NewReplacer("SEQ", "7")

// TestCommandsParse checks that each command in the pages' blocks, also those that are not run, and in their text
// exists and takes its flags.
func TestCommandsParse(t *testing.T) {
	checked := 0
	check := func(where, line string) {
		if args, ok := commandOf(t, line); ok {
			checked++
			assert.NoError(t, cli.Parse(args), "%s: pagestream %s", where, strings.Join(args, " "))
		}
	}
	for _, b := range blocks(t) {
		for line := range strings.Lines(strings.ReplaceAll(b.script, "\\\n", "")) {
			check(fmt.Sprintf("%s, block of line %d", b.page, b.line), numbers.Replace(line))
		}
	}
	names, text := texts(t)
	for _, name := range names {
		if !isDoc(name) {
			continue
		}
		plain := fence.ReplaceAllString(text[name], "")
		for _, m := range regexp.MustCompile("`(pagestream [^`]+)`").FindAllStringSubmatch(plain, -1) {
			check(name, numbers.Replace(strings.Join(strings.Fields(m[1]), " ")))
		}
	}
	assert.Greater(t, checked, 150)
	for _, wrong := range []string{"pagestream pages lst", "pagestream audit --ful", "pagestream erase PAGE"} {
		args, ok := commandOf(t, wrong)
		assert.True(t, ok)
		assert.Error(t, cli.Parse(args), wrong)
	}
}

// limit is how long a block may take. It is long, since other tests may use the machine.
const limit = 3 * time.Minute

// findings finds the commands that exit with 1 because a page has a problem, as some of dev have.
var findings = regexp.MustCompile(`(?m)^pagestream (?:doctor|pages check|pages resubscribe)[^#|\n]*[^#|\s]`)

// TestCommandsOfTheDocs runs the blocks of README and docs, word by word and in their order, against the server and
// the fake Meta of dev. Words in capitals and the addresses of the defaults are replaced by those of this dev.
func TestCommandsOfTheDocs(t *testing.T) {
	if testing.Short() {
		t.Skip("it runs a server")
	}
	dir := t.TempDir()
	bin := program(t, dir)
	env := append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "PAGESTREAM_") }),
		"PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"), "HOME="+dir, "XDG_CONFIG_HOME="+dir,
		"GORACE=atexit_sleep_ms=0") // the race detector makes each command wait for a second at its end
	replace := startDev(t, filepath.Join(dir, "dev"), env)
	for _, b := range blocks(t) {
		where := fmt.Sprintf("%s:%d", b.page, b.line)
		if b.way != "" {
			if b.way == "skip" {
				t.Logf("%s is not run:\n%s", where, b.script)
			}
			continue
		}
		if tool := missingTool(b.script); tool != "" {
			t.Logf("%s is not run: %s is not installed", where, tool)
			continue
		}
		work := filepath.Join(dir, strings.ReplaceAll(b.page, "/", "_")) // one for each page
		require.NoError(t, os.MkdirAll(work, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(work, "admin.token"), []byte(replace.token), 0o600))
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		script := findings.ReplaceAllString(strings.ReplaceAll(b.script, fromSource, "pagestream "), "$0 || [ $$? = 1 ]")
		script = replace.words.Replace(script)
		cmd := exec.CommandContext(ctx, "sh", "-euc", script)
		cmd.Dir, cmd.Env, cmd.WaitDelay = work, slices.Concat(env, []string{"PAGESTREAM_CONFIG=" + replace.config}), time.Second
		began := time.Now()
		out, err := cmd.CombinedOutput()
		cancel()
		if err != nil {
			assert.Fail(t, "a block fails", "%s: %v\n%s\nprinted:\n%s", where, err, script, out)
		}
		t.Logf("%s: %s\n%.400s", where, time.Since(began).Round(time.Millisecond), out)
	}
}

// missingTool returns a program that a script needs beside pagestream and that is not installed, empty if none.
func missingTool(script string) string {
	for _, tool := range []string{"curl", "openssl"} {
		if _, err := exec.LookPath(tool); err != nil && strings.Contains(script, tool+" ") {
			return tool
		}
	}
	return ""
}

// program makes a copy of the test binary with the name of the program, and returns its directory.
func program(t *testing.T, dir string) string {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	bin := filepath.Join(dir, "bin")
	require.NoError(t, os.MkdirAll(bin, 0o700))
	name := filepath.Join(bin, "pagestream")
	if os.Link(self, name) == nil {
		return bin
	}
	from, err := os.Open(self)
	require.NoError(t, err)
	defer from.Close()
	to, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o700)
	require.NoError(t, err)
	_, err = io.Copy(to, from)
	require.NoError(t, errors.Join(err, to.Close()))
	return bin
}

// replacements are what a reader of the docs replaces.
type replacements struct {
	config, token string
	words         *strings.Replacer
}

// startDev runs README's first command until the test ends, on free ports, and waits until its 40 pages are
// connected and a healthy one has a conversation.
func startDev(t *testing.T, dir string, env []string) replacements {
	t.Helper()
	bin := filepath.Join(filepath.Dir(dir), "bin", "pagestream")
	var output bytes.Buffer
	dev := exec.Command(bin, "dev", "--data-dir", dir, "--rate", "20",
		"--http-public", "127.0.0.1:0", "--http-private", "127.0.0.1:0")
	dev.Env, dev.Stdout, dev.Stderr, dev.WaitDelay = env, &output, &output, time.Second
	require.NoError(t, dev.Start())
	ended := make(chan error, 1)
	go func() { ended <- dev.Wait() }()
	t.Cleanup(func() {
		_ = dev.Process.Signal(os.Interrupt)
		select {
		case err := <-ended:
			assert.NoError(t, err, "dev ended:\n%s", &output)
		case <-time.After(limit):
			_ = dev.Process.Kill()
			assert.Fail(t, "dev does not stop")
		}
	})
	config := filepath.Join(dir, "pagestream.yaml")
	var private, page, contact string
	streamstest.Eventually(t, limit, func() error {
		var cfg struct {
			HTTP struct {
				Private string `json:"private"`
			} `json:"http"`
		}
		var connected []struct {
			ID, State string
			Judgement struct{ State string }
		}
		err := errors.Join(
			ask(env, bin, config, &cfg, "config", "print"), ask(env, bin, config, &connected, "pages", "list"))
		if err != nil {
			return err
		}
		healthy, n := map[string]bool{}, 0
		for _, p := range connected {
			if p.State == "connected" {
				n++
				healthy[p.ID] = p.Judgement.State == "healthy"
			}
		}
		var list []struct{ Page, Contact string }
		if err := ask(env, bin, config, &list, "conversations", "list"); err != nil {
			return err
		}
		i := slices.IndexFunc(list, func(c struct{ Page, Contact string }) bool { return healthy[c.Page] })
		if n < 40 || i < 0 {
			return fmt.Errorf("%d connected pages, %d conversations", n, len(list))
		}
		private, page, contact = cfg.HTTP.Private, list[i].Page, list[i].Contact
		return nil
	})
	token, err := os.ReadFile(filepath.Join(dir, "admin.token"))
	require.NoError(t, err)
	return replacements{config: config, token: string(token), words: strings.NewReplacer(
		"PAGESTREAM", "PAGESTREAM", "PAGE", page, "CONTACT", contact, "FILE", config, "DIR", filepath.Join(dir, "copy"),
		"127.0.0.1:8081", private,
	)}
}

// ask runs a command that prints JSON.
func ask(env []string, bin, config string, into any, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, append([]string{"-c", config, "--json"}, args...)...)
	cmd.Env = env
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	return json.Unmarshal(out, into)
}
