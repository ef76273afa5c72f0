// Package fakegraph is an honest fake of the parts of Meta that pagestream
// talks to: the Graph API, the login dialog, and the engine that delivers
// webhooks. `pagestream dev` and the tests run on it; nothing here is used
// against the real thing.
//
// [Graph] is an http.Handler. With any version prefix (/v23.0) and without one
// it serves
//
//	GET  dialog/oauth                       consent: at once, with a picker, or denied
//	GET, POST oauth/access_token            code, fb_exchange_token, client_credentials
//	GET  debug_token
//	GET  me, {user}, {page}, {psid}         fields=…
//	GET  me/accounts, {user}/accounts       cursor paging, 25 a page
//	GET, DELETE {user}/permissions          and the deauthorize callback
//	GET, POST, DELETE {app}/subscriptions   POST shakes hands with the callback URL
//	GET, POST, DELETE {page}/subscribed_apps, me/subscribed_apps
//	GET  {page}/conversations, {conversation}/messages, {message}
//	POST {page}/messages, me/messages       Send API; makes an echo
//
// and POST with method=… for each. It is strict where Meta is: appsecret_proof
// is required and verified, a page's edges take that page's own token, a list of
// fields replaces the one before, one field that is not permitted refuses the
// whole list, a page that the consent does not include is refused. Errors have
// Meta's codes, headers and content type. /me is the owner of the token, as Meta
// documents; MeOverwrites makes a POST to me/subscribed_apps also drop the app
// from every other page, as some report.
//
// What goes wrong is scripted, by methods or over HTTP ([Graph.Control]): drift,
// tokens that die of each subcode, lost roles, later consents with fewer pages,
// removed apps, limits, blocked people, closed windows, and any answer at all
// ([Graph.FailNext]).
//
// [Engine] makes traffic that looks like people's and delivers it signed, in
// ASCII-escaped JSON, in batches across pages, with duplicates, reordering and
// standby, to what is subscribed at both levels. What is not answered 200 within
// 5 s is sent again, and after an hour of failures the page's subscription is
// gone.
//
// State is in memory and follows from Options.Seed: a token of one run is the
// same in the next. What it does not do: comments and posts, attachments that can
// be fetched, and limits by the hour.
package fakegraph
