// Package fakegraph is an honest fake of the parts of Meta that pagestream
// talks to: the Graph API, the login dialog, and the engine that delivers
// webhooks. `pagestream dev` and the tests run on it; nothing here is used
// against the real thing.
//
// [Graph] is an http.Handler. With any version prefix (/v23.0) and without one
// it serves
//
//	GET  dialog/oauth                       consent, granted at once
//	GET  oauth/access_token                 code, fb_exchange_token, client_credentials
//	GET  debug_token
//	GET  me, {user}, {page}, {psid}         fields=…
//	GET  me/accounts, {user}/accounts       cursor paging, 25 a page
//	GET, POST, DELETE {page}/subscribed_apps, me/subscribed_apps
//	POST {page}/messages, me/messages       Send API; makes an echo
//
// and POST with method=… for each. It is strict where Meta is: appsecret_proof
// is required and verified, a page's edges take that page's own token, a list of
// fields replaces the one before, one field that is not permitted refuses the
// whole list. Errors have Meta's codes, headers and content type. /me is the
// owner of the token, as Meta documents; MeOverwrites makes a POST to
// me/subscribed_apps also drop the app from every other page, as some report.
//
// [Engine] makes traffic that looks like people's and delivers it signed, in
// ASCII-escaped JSON, in batches across pages, with duplicates, reordering and
// standby, to subscribed pages and fields only. What is not answered 200 within
// 5 s is sent again, and after an hour of failures the page's subscription is
// gone.
//
// State is in memory and follows from Options.Seed: a token of one run is the
// same in the next. What it does not do: app-level subscriptions and the
// handshake (every field counts as on), the Conversations API, comments and
// posts, Instagram deliveries, attachments that can be fetched, the 24-hour
// window, tasks and roles within a page, rate limits, consent that is denied or
// partial, and deauthorization.
package fakegraph
