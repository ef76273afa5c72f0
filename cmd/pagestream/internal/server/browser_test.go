package server_test

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/streams/streamstest"
)

// browserLimit is the timeout of one step in a browser. It is large because the machine may be
// busy with other tests.
const browserLimit = streamstest.Limit

// tab is a real browser with one open tab, without a session at the start.
type tab struct {
	t    *testing.T
	ctx  context.Context
	base string
	// offline is set while a test has stopped the server: htmx then reports each request that failed.
	offline atomic.Bool
}

// browser is the Chromium of the test run, which all tests share, and stopBrowser ends it. Its start
// takes longer than most tests.
var (
	browser     = sync.OnceValues(startBrowser)
	stopBrowser = func() {}
)

// startBrowser starts Chromium. It fails with [exec.ErrNotFound] if it is not installed.
func startBrowser() (context.Context, error) {
	var path string
	var err error
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err = exec.LookPath(name); err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "pagestream-test-browser")
	if err != nil {
		return nil, err
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox,
		chromedp.UserDataDir(dir), chromedp.Flag("disable-dev-shm-usage", true))
	alloc, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(alloc)
	stopBrowser = func() {
		_ = chromedp.Cancel(ctx) // waits until the browser no longer uses its directory
		cancel()
		stop()
		_ = os.RemoveAll(dir)
	}
	return ctx, chromedp.Do(ctx) // it runs as long as the context of the first action
}

// newBrowser opens a tab with its own cookies, or skips the test if Chromium is not installed.
func newBrowser(t *testing.T, base string) *tab {
	t.Helper()
	parent, err := browser()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("Chromium is not installed; run: apt-get install chromium")
	}
	require.NoError(t, err)
	ctx, cancel := chromedp.NewContext(parent, chromedp.WithNewBrowserContext())
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx)
		cancel()
	})
	require.NoError(t, chromedp.Do(ctx))
	b := &tab{t: t, ctx: ctx, base: base}
	b.setScreen(1280, "light")
	b.failOnConsoleErrors()
	return b
}

// failOnConsoleErrors fails the test if the browser's console shows an error: an error of a script,
// or a violation of the page's content security policy.
func (b *tab) failOnConsoleErrors() {
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(b.ctx)
	messages := chromedp.Console(ctx)
	go func() {
		defer close(done)
		for m, err := range messages {
			if err != nil {
				return
			}
			isError := m.Type == chromedp.ConsoleError || m.Type == chromedp.ConsoleException
			// Tests check the status of answers themselves.
			if isError && !b.offline.Load() {
				assert.Contains(b.t, m.Text, "Failed to load resource", "error in the browser console at %s", m.URL)
			}
		}
	}()
	b.t.Cleanup(func() {
		cancel()
		<-done
	})
}

// do runs one action. If it fails, it fails the test with the text of the page.
func do[T any](b *tab, what string, a chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, browserLimit)
	defer cancel()
	v, err := chromedp.Run(ctx, a)
	if err != nil {
		js := `location.href + "\n" + (document.body ? document.body.innerText : "")`
		text, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string](js))
		require.NoError(b.t, err, "%s\n%s", what, text)
	}
	return v
}

// eval evaluates a JavaScript expression in the page.
func eval[T any](b *tab, js string) T {
	b.t.Helper()
	return do(b, "evaluate "+js, chromedp.Evaluate[T](js, chromedp.EvalAwaitPromise))
}

// setScreen sets the width of the screen in pixels and the theme: "light" or "dark".
func (b *tab) setScreen(width int64, theme string) {
	b.t.Helper()
	do(b, "set the screen", chromedp.Steps(chromedp.EmulateViewport(width, 844),
		chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
			_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}},
			})
			return err
		})))
}

// setZone sets the time zone of the browser.
func (b *tab) setZone(name string) {
	b.t.Helper()
	do(b, "set the time zone", chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.Call(ctx, emulation.SetTimezoneOverride, emulation.SetTimezoneOverrideParams{TimezoneID: name})
		return err
	}))
}

// open navigates to a path of the console, or to a URL.
func (b *tab) open(target string) {
	b.t.Helper()
	if strings.HasPrefix(target, "/") {
		target = b.base + target
	}
	do(b, "open "+target, chromedp.Navigate(target))
}

// waitFor waits until an element is visible.
func (b *tab) waitFor(sel string) {
	b.t.Helper()
	do(b, "wait for "+sel, chromedp.WaitVisible(chromedp.CSS(sel)))
}

// click clicks an element when it is visible and htmx has settled the last change of the page.
// Settling takes 20 ms, and a test clicks faster than a person.
func (b *tab) click(sel string) {
	b.t.Helper()
	streamstest.Eventually(b.t, browserLimit, func() error {
		if eval[int](b, `document.querySelectorAll(".htmx-added, .htmx-settling").length`) > 0 {
			return errors.New("the page is still changing")
		}
		return nil
	})
	do(b, "click "+sel, chromedp.Click(chromedp.CSS(sel)))
}

// fill replaces the text of a field by simulated key presses.
func (b *tab) fill(sel, text string) {
	b.t.Helper()
	b.waitFor(sel)
	eval[bool](b, fmt.Sprintf(`(() => {
		const field = document.querySelector(%q);
		field.value = "";
		field.focus();
		return field.dispatchEvent(new Event("input", {bubbles: true}));
	})()`, sel))
	// Not chromedp.SendKeys: it reads the attributes of a node while the page may change them.
	do(b, "fill "+sel, chromedp.KeyEvent(text))
}

// waitForText waits until an element that matches sel contains the text and the page is loaded
// completely. The page may change meanwhile.
func (b *tab) waitForText(sel, text string) {
	b.t.Helper()
	js := fmt.Sprintf(`document.readyState === "complete" &&
		[...document.querySelectorAll(%q)].some(e => e.innerText.includes(%q))`, sel, text)
	began := time.Now()
	streamstest.Eventually(b.t, browserLimit, func() error {
		ctx, cancel := context.WithTimeout(b.ctx, browserLimit)
		defer cancel()
		there, err := chromedp.Run(ctx, chromedp.Evaluate[bool](js))
		if err == nil && !there {
			err = fmt.Errorf("no %q in %s", text, sel)
		}
		if err != nil && time.Since(began) > browserLimit/2 { // the text of a long page takes a while
			now, _ := chromedp.Run(ctx, chromedp.Evaluate[string](`location.href + "\n" + document.body.innerText`))
			err = fmt.Errorf("%w of %s", err, now)
		}
		return err
	})
}

// axe is axe-core, which looks for what people with a screen reader, a keyboard or weak eyes can't use.
// https://github.com/dequelabs/axe-core, version 4.14.1; its licence is beside it.
//
//go:embed testdata/axe/axe.min.js
var axe string

// isAccessible checks that axe finds nothing serious or critical on the page.
func (b *tab) isAccessible(what string) {
	b.t.Helper()
	do(b, "load axe", chromedp.Evaluate[bool](axe+"; true"))
	found := eval[[]string](b, `axe.run(document, {resultTypes: ["violations"]}).then(r => r.passes.length < 5 ? ["did not run"] : r.violations.
		filter(v => v.impact === "serious" || v.impact === "critical").
		flatMap(v => v.nodes.map(n => v.id + ": " + n.html.slice(0, 200) + " " + n.failureSummary)))`)
	assert.Empty(b.t, found, "%s is not accessible to all", what)
}

// signIn signs in to the console with the token in a file.
func (b *tab) signIn(tokenFile string) {
	b.t.Helper()
	token, err := os.ReadFile(tokenFile)
	require.NoError(b.t, err)
	b.open("/sign-in")
	b.fill("#token", strings.TrimSpace(string(token)))
	b.click("form button")
	b.waitForText("h1", "Pages")
}
