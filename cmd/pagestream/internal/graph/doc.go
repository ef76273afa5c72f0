// Package graph is a small client for the parts of Meta's Graph API that
// pagestream uses.
//
// Every method names the page, person or app that it is about. The alias /me,
// which Graph resolves by whoever owns the token, can't be expressed: with one
// call to /me/subscribed_apps under the wrong token, another page than the one
// meant is subscribed, and nothing says so.
//
// Tokens travel in the Authorization header or in a form body, never in a URL,
// and never come back in an error: what Graph or the network says is scrubbed
// first. The URL of a listing's next page, which has the token in it, is never
// asked. Each call carries an appsecret_proof.
// https://developers.facebook.com/docs/graph-api/guides/secure-requests
//
// Rate limits are obeyed per page as the usage headers tell them: a call whose
// page is over its limit waits if that is short and else fails at once with
// [meta.Throttled], while calls for other pages go on. Limits live in memory, for
// this process alone.
//
// What Graph refuses is a [meta.Error]; its class says what that means.
package graph
