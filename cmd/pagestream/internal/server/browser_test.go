package server_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/streams/streamstest"
)

// browserLimit bounds one thing that is waited for in a browser. It is large:
// the machine may be busy with other tests.
const browserLimit = 30 * time.Second

// tab is a real browser with one page open, without a session.
type tab struct {
	t    *testing.T
	ctx  context.Context
	base string
}

// browse starts Chromium, or skips the test where there is none.
func browse(t *testing.T, base string) *tab {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Skip("there is no Chromium here; type: apt-get install chromium")
	}
	alloc, stop := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.UserDataDir(t.TempDir()), chromedp.Flag("disable-dev-shm-usage", true))...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx) // waits until the browser is gone from its directory
		cancel()
	})
	// The browser lives as long as the context of the first thing it is told.
	require.NoError(t, chromedp.Do(ctx))
	b := &tab{t: t, ctx: ctx, base: base}
	b.look(1280, "light")
	b.mind()
	return b
}

// mind fails the test for what the browser's console shows in red: errors of a
// script, and what the page's policy forbids.
func (b *tab) mind() {
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(b.ctx)
	messages := chromedp.Console(ctx)
	go func() {
		defer close(done)
		for m, err := range messages {
			if err != nil {
				return
			}
			red := m.Type == chromedp.ConsoleError || m.Type == chromedp.ConsoleException
			if red && !strings.Contains(m.Text, "Failed to load resource") { // an answer that is no 200 is the test's to judge
				b.t.Errorf("the browser complains at %s: %s", m.URL, m.Text)
			}
		}
	}()
	b.t.Cleanup(func() {
		cancel()
		<-done
	})
}

// ask does one thing, and fails the test with what the page looks like.
func ask[T any](b *tab, what string, a chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, browserLimit)
	defer cancel()
	v, err := chromedp.Run(ctx, a)
	if err != nil {
		text, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string](`location.href + "\n" + (document.body ? document.body.innerText : "")`))
		b.t.Fatalf("%s: %v\n%s", what, err, text)
	}
	return v
}

// eval asks the page.
func eval[T any](b *tab, js string) T {
	b.t.Helper()
	return ask(b, "ask "+js, chromedp.Evaluate[T](js, chromedp.EvalAwaitPromise))
}

// look sets the width of the screen in pixels, and "light" or "dark".
func (b *tab) look(width int64, theme string) {
	b.t.Helper()
	ask(b, "set the screen", chromedp.Steps(chromedp.EmulateViewport(width, 844),
		chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
			_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}},
			})
			return err
		})))
}

// open goes to a path of ours, or to a whole URL.
func (b *tab) open(target string) {
	b.t.Helper()
	if strings.HasPrefix(target, "/") {
		target = b.base + target
	}
	ask(b, "open "+target, chromedp.Navigate(target))
}

func (b *tab) waitFor(sel string) {
	b.t.Helper()
	ask(b, "wait for "+sel, chromedp.WaitVisible(chromedp.CSS(sel)))
}

// click clicks once the element is to be seen, and htmx has taken in what it put
// on the page last: that takes it 20 ms, and a test is quicker than a person.
func (b *tab) click(sel string) {
	b.t.Helper()
	streamstest.Eventually(b.t, browserLimit, func() error {
		if eval[int](b, `document.querySelectorAll(".htmx-added, .htmx-settling").length`) > 0 {
			return errors.New("the page is still being changed")
		}
		return nil
	})
	ask(b, "click "+sel, chromedp.Click(chromedp.CSS(sel)))
}

// fill writes into a field as a person would.
func (b *tab) fill(sel, text string) {
	b.t.Helper()
	b.waitFor(sel)
	eval[string](b, fmt.Sprintf(`document.querySelector(%q).value = ""`, sel))
	ask(b, "fill "+sel, chromedp.SendKeys(chromedp.CSS(sel), text))
}

// sees waits until an element has a text, also over a change of the page, and the
// page has come to its end.
func (b *tab) sees(sel, text string) {
	b.t.Helper()
	js := fmt.Sprintf(`document.readyState === "complete" && [...document.querySelectorAll(%q)].some(e => e.innerText.includes(%q))`, sel, text)
	streamstest.Eventually(b.t, browserLimit, func() error {
		ctx, cancel := context.WithTimeout(b.ctx, browserLimit)
		defer cancel()
		there, err := chromedp.Run(ctx, chromedp.Evaluate[bool](js))
		if err == nil && !there {
			now, _ := chromedp.Run(ctx, chromedp.Evaluate[string](`location.href + "\n" + document.body.innerText`))
			err = fmt.Errorf("no %q in %s of %s", text, sel, now)
		}
		return err
	})
}

// signIn signs in with the token in a file.
func (b *tab) signIn(tokenFile string) {
	b.t.Helper()
	token, err := os.ReadFile(tokenFile)
	require.NoError(b.t, err)
	b.open("/sign-in")
	b.fill("#token", strings.TrimSpace(string(token)))
	b.click("form button")
	b.sees("h1", "Pages")
}
