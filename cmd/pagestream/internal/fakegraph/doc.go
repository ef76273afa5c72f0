// Package fakegraph is a fake of the parts of Meta that pagestream uses: the Graph
// API, the login dialog, and webhook delivery. `pagestream dev` and the tests use
// it. It is never used together with the real Meta.
//
// [Graph] is an http.Handler. It serves, with any version prefix (/v23.0) or
// without one,
//
//	GET  dialog/oauth                       consent: at once, with a picker, or denied
//	GET, POST oauth/access_token            code, fb_exchange_token, client_credentials
//	GET  debug_token
//	GET  me, {user}, {page}, {psid}, {lead} fields=…
//	GET  me/accounts, {user}/accounts       cursor paging, 25 a page
//	GET, DELETE {user}/permissions          and the deauthorize callback
//	GET, POST, DELETE {app}/subscriptions   POST verifies the callback URL
//	GET, POST, DELETE {page}/subscribed_apps, me/subscribed_apps
//	GET  {page}/conversations, {conversation}/messages, {message}
//	POST {page}/messages, me/messages       Send API; makes an echo
//
// and POST with method=… for each. It is as strict as Meta: appsecret_proof is
// required and verified, the edges of a page require that page's own token, a list
// of fields replaces the previous one, one field without permission rejects the
// whole list, and a page that is not part of the consent is rejected. Errors have
// Meta's codes, headers and content type. /me is the owner of the token, as Meta
// documents; with MeOverwrites a POST to me/subscribed_apps also removes the app
// from every other page, as some developers report.
//
// Failures are scripted, by methods or over HTTP ([Graph.Control]): drift, tokens
// that are invalidated with any subcode, lost roles, later consents with fewer
// pages, removed apps, limits, blocked people, closed windows, and any answer at
// all ([Graph.FailNext]).
//
// [Engine] generates traffic that looks like that of real people, messages and, with
// EngineOptions.Changes, comments, reactions and leads. It delivers it signed, in
// ASCII-escaped JSON, in batches across pages, with duplicates, reordering and standby.
// It delivers what is subscribed at both levels, app and page. A POST that is not
// answered 200 within 5 s is sent again, and after an hour of failures the page's
// subscription is removed.
//
// State is in memory and derived from Options.Seed: tokens are the same in every
// run. A part of it can be kept over a restart ([Graph.Snapshot]). Not implemented: reading comments and posts, attachments that can be
// downloaded, and hourly limits.
package fakegraph
