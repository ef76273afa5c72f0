package login

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"net/http"

	"github.com/pagestream/pagestream/cmd/pagestream/internal/meta"
)

const style = `:root{color-scheme:light dark;--t:#1c2330;--b:#fff;--d:#566073;--l:#d9dee7;--a:#1d4ed8;--g:#17693a;--r:#b42318;--w:#8a4b08;--wb:#fff4df}
@media (prefers-color-scheme:dark){:root{--t:#e6eaf1;--b:#12161d;--d:#a3adbd;--l:#313a48;--a:#3b6fe8;--g:#7fd6a0;--r:#ff9a8f;--w:#f5c06a;--wb:#3f2f12}main a{color:#8fb3ff}}
body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:2rem auto;padding:0 1rem;color:var(--t);background:var(--b);overflow-wrap:anywhere}
header{font-weight:700;color:var(--d)}main{border:1px solid var(--l);border-radius:10px;padding:.5rem 1.25rem 1.25rem;margin-top:.75rem}a{color:var(--a)}
.state{border:1px solid;border-radius:999px;padding:0 .6rem;font-size:.9rem;white-space:nowrap}h1{font-size:1.5rem}fieldset{border:1px solid var(--l);border-radius:6px;margin:1rem 0;padding:.5rem 1rem}legend{font-weight:600}
label{display:block;padding:.35rem 0}small,.id{color:var(--d)}.warn{border-left:4px solid var(--w);background:var(--wb);padding:.5rem 1rem;margin:1rem 0}
button{font:inherit;font-weight:600;padding:.5rem 1.25rem;border:0;border-radius:6px;background:var(--a);color:#fff}:focus-visible{outline:3px solid var(--a);outline-offset:2px}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.4rem .6rem .4rem 0;border-bottom:1px solid var(--l);vertical-align:top}
.confirmed{color:var(--g)}.failed,.drifted{color:var(--r)}input[type=text]{font:inherit;padding:.3rem .5rem;width:20rem;max-width:100%;color:var(--t);background:var(--b);border:1px solid var(--d);border-radius:6px}`

// policy is a Content-Security-Policy that allows only the style above.
var policy = func() string {
	sum := sha256.Sum256([]byte(style))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; frame-ancestors 'none'"
}()

// setSecurityHeaders sets the headers of every answer of the flow: it must not be
// cached, framed or sent as a referrer. Form is appended to the policy.
func setSecurityHeaders(w http.ResponseWriter, form string) {
	head := w.Header()
	head.Set("Cache-Control", "no-store")
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("X-Frame-Options", "DENY")
	head.Set("Referrer-Policy", "no-referrer")
	head.Set("Content-Security-Policy", policy+form)
}

func page(name, body string) *template.Template {
	return template.Must(template.New(name).Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Connect pages · pagestream</title><style>` + style + `</style></head><body>
<header>pagestream</header><main>
` + body + `
</main></body></html>
`))
}

type chooseView struct {
	meta.Consent
	Company Company
	// Names are the names of the companies of the pages, by id.
	Names map[string]string
	CSRF  string
}

var choosePage = page("choose", `<h1>Choose the pages to connect</h1>
{{with .MissingScopes}}<div class="warn">These permissions were not given: {{range $i, $s := .}}{{if $i}}, {{end}}{{$s}}{{end}}. Without them Meta will refuse. Start again and leave all of them on.</div>{{end}}
{{with .Gone}}<div class="warn">This login no longer includes {{range $i, $p := .}}{{if $i}}, {{end}}<b>{{or $p.Name $p.Page}}</b>{{end}}. They stay as they are, but Meta will stop answering for them. To keep them, start again and choose them in Meta's dialog too.</div>{{end}}
{{if .Pages}}<form method="post" action="callback">
<input type="hidden" name="csrf" value="{{.CSRF}}">
<fieldset><legend>{{len .Pages}} pages were granted</legend>
{{range .Pages}}<label><input type="checkbox" name="page" value="{{.Page}}"{{if not (or .Lacking (eq .Standing "foreign") (.Moves $.Company.ID))}} checked{{end}}> {{.Name}} <span class="id">{{.Page}}</span>
{{if .Moves $.Company.ID}}<small><b>moves from {{index $.Names .Company}} to {{$.Company.Name}}</b></small>{{end}}
{{if and (eq .Standing "connected") (not (.Moves $.Company.ID))}}<small>connected; gets the new token</small>{{end}}
{{if eq .Standing "foreign"}}<small>connected by somebody else{{with .Company}} for {{index $.Names .}}{{end}}; choosing it takes it over</small>{{end}}
{{if .Lacking}}<small>your role on this page does not let you connect it</small>{{end}}</label>
{{end}}</fieldset>
{{with .Company.Name}}<p>For {{.}}.</p>{{end}}
<button>Connect</button></form>
{{else}}<p>No page was granted. Start again and choose at least one page in Meta's dialog.</p>{{end}}`)

type resultView struct {
	Confirmed int
	// Waiting is how many of Results have no state yet.
	Waiting int
	Results []meta.Outcome
	Gone    []meta.ConsentPage
	Back    string
}

// Done returns how many of Results have a state.
func (v resultView) Done() int { return len(v.Results) - v.Waiting }

const results = `<table><tr><th scope="col">Page</th><th scope="col">Result</th></tr>
{{range .Results}}<tr><td>{{.Name}} <span class="id">{{.Page}}</span></td><td><span class="state {{.State}}">{{or .State "waiting"}}</span>{{with .Reason}}<br><small>{{.}}</small>{{end}}{{with .Field}}<br><small>refused for the field {{.}}</small>{{end}}</td></tr>
{{end}}</table>`

var progressPage = page("progress", `<h1>{{.Done}} of {{len .Results}} pages are done</h1>
<p role="status">This page looks again each second. You may close it: the work goes on.</p>
`+results)

var resultPage = page("result", `<h1>{{.Confirmed}} of {{len .Results}} pages are connected and subscribed</h1>
`+results+`
{{with .Gone}}<div class="warn">Not in this login any more: {{range $i, $p := .}}{{if $i}}, {{end}}{{or $p.Name $p.Page}}{{end}}.</div>{{end}}
{{if .Back}}<p><a href="{{.Back}}" rel="noreferrer">Back to pagestream</a></p>{{else}}<p>You can close this window.</p>{{end}}`)

var failPage = page("fail", `<h1>Not connected</h1><div class="warn" role="alert">{{.}}</div><p>You can close this window.</p>`)

func (h *Handler) fail(w http.ResponseWriter, status int, text string) {
	h.show(w, status, failPage, text)
}

// show writes a page. If the template fails, it answers with status 500 instead.
func (h *Handler) show(w http.ResponseWriter, status int, t *template.Template, view any) {
	var b bytes.Buffer
	if err := t.Execute(&b, view); err != nil {
		h.opts.Logger.Error("page can't be made", "page", t.Name(), "err", err)
		http.Error(w, "the page can't be shown", http.StatusInternalServerError)
		return
	}
	setSecurityHeaders(w, "; form-action 'self'")
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}
