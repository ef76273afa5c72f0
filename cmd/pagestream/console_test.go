package main

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/fakegraph"
)

// screenshots says where TestScreenshots leaves its pictures.
var screenshots = flag.String("screenshots", "", "directory for the pictures of TestScreenshots; empty makes them and throws them away")

// talkingTown is a program with connected pages of which people write to the
// first, and a browser that is signed in.
func talkingTown(t *testing.T, pages int) (*running, *fakegraph.Graph, *tab) {
	t.Helper()
	g, cfg := agency(t, pages)
	r := start(t, cfg)
	r.connectAll(t, g)
	b := browse(t, "http://"+r.PrivateAddr())
	b.signIn(cfg.HTTP.TokenFile)
	return r, g, b
}

// A picture of each screen, light and dark, wide and narrow.
func TestScreenshots(t *testing.T) {
	dir := *screenshots
	if dir == "" {
		dir = t.TempDir()
	}
	require.NoError(t, os.MkdirAll(dir, 0o750))
	r, b, contact := showcase(t)
	for _, s := range []struct{ name, path, ready string }{
		{"sign-in", "/sign-in", "#token"},
		{"pages", "/", "#pages tbody tr"},
		{"page", "/pages/7001", "article.finding"},
		{"connect", "/connect", "#company"},
		{"conversations", "/pages/7000/conversations", "#list li"},
		{"conversation", "/conversations/7000/" + contact, ".msg"},
		{"events", "/events", "#events tr"},
		{"event", "/events/" + fmt.Sprint(lastSeq(t, r)), "pre"},
		{"streams", "/streams", ".jobs .fine"},
	} {
		for _, theme := range []string{"light", "dark"} {
			for _, width := range []int64{1280, 390} {
				b.look(width, theme)
				b.open(s.path)
				b.waitFor(s.ready)
				png := ask(b, "picture of "+s.name, chromedp.FullScreenshot(100))
				assert.LessOrEqual(t, eval[int64](b, `document.documentElement.scrollWidth`), width, "%s is wider than the screen", s.name)
				require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%s-%d.png", s.name, theme, width)), png, 0o600))
			}
		}
		if s.path == "/sign-in" {
			b.signIn(r.cfg.HTTP.TokenFile)
		}
	}
}

// showcase is an installation as its operator would find it: some pages fine, some
// not, and people talking.
func showcase(t *testing.T) (r *running, b *tab, contact string) {
	t.Helper()
	names := []string{"Corner Bakery", "Harbour Bikes", "Old Mill Books", "Fern & Moss", "Cafe Lindner", "Nordlicht Optik", "Pine Street Vet", "Studio Acht"}
	g, cfg := agency(t, len(names), func(o *fakegraph.Options) {
		for i := range names {
			o.Pages[i].Name = names[i]
		}
	})
	r = start(t, cfg)
	r.connectAll(t, g)
	b = browse(t, "http://"+r.PrivateAddr())
	people := g.Contacts("7000")
	contact = people[0]
	now := time.Now().UnixMilli()
	say := func(contact, mid, text string, ago time.Duration) {
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message("7000", contact, mid, text, now-ago.Milliseconds())))
	}
	say(contact, "m_1", "Good morning! Do you have the seeded rye on Saturdays?", 50*time.Hour)
	say(contact, "m_2", "And could you put two aside for me?", 49*time.Hour)
	say(people[1], "m_3", "What time do you close today?", 3*time.Hour)
	say(people[2], "m_4", "The birthday cake was wonderful, thank you!", 2*time.Hour)
	say(contact, "m_5", "Hello again, I am on my way. Is ten o'clock fine?", 20*time.Minute)
	for _, item := range []string{
		`{"sender":{"id":"` + contact + `"},"recipient":{"id":"7000"},"timestamp":%d,"reaction":{"reaction":"love","emoji":"❤️","action":"react","mid":"m_2"}}`,
		`{"sender":{"id":"` + contact + `"},"recipient":{"id":"7000"},"timestamp":%d,"message":{"mid":"m_6","attachments":[{"type":"image","payload":{"url":"https://cdn.example.com/rye.jpg"}}]}}`,
		`{"sender":{"id":"` + contact + `"},"recipient":{"id":"7000"},"timestamp":%d,"postback":{"mid":"m_7","title":"Opening hours","payload":"HOURS"}}`,
	} {
		now += 1000
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), fmt.Appendf(nil, `{"object":"page","entry":[{"id":"7000","time":%d,"messaging":[`+item+`]}]}`, now, now)))
	}
	for i := range 40 {
		require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message(fmt.Sprint(7001+i%5), fmt.Sprint(40+i), fmt.Sprint("m_x", i), "Hello", now-int64(i)*60000)))
	}
	require.Equal(t, http.StatusOK, post(t, r.PublicAddr(), message("7999", "50", "m_y", "Is anybody there?", now)))
	token, err := g.PageToken(testAppID, testUser, "7001")
	require.NoError(t, err)
	require.NoError(t, g.KillToken(token, 460))
	_, _, _ = r.command(t, "pages", "check", "7001")
	code, _, stderr := r.command(t, "send", "7000", contact, "--text", "Ten is fine, they are on the counter with your name.")
	require.Equal(t, exitFine, code, stderr)
	b.signIn(cfg.HTTP.TokenFile)
	b.open("/streams")
	b.click("#audit")
	b.sees(".jobs .fine", "All is as promised")
	b.click("#rebuild-pages")
	b.sees(".jobs .fine", "equal to the one before")
	b.click(".out button")
	b.waitFor("#token")
	return r, b, contact
}
