// Package graph is a small client for the parts of Meta's Graph API that
// pagestream uses.
//
// Every method takes the id of the page, person or app that it is about. The
// alias /me, which Graph resolves to the owner of the token, can't be expressed:
// a call to /me/subscribed_apps with the wrong token would subscribe the wrong
// page, without an error.
//
// Tokens are sent in the Authorization header or in a form body, never in a URL,
// and never occur in an error: texts from Graph or the network are scrubbed first.
// The URL of a listing's next page, which contains the token, is never requested.
// Each call has an appsecret_proof.
// https://developers.facebook.com/docs/graph-api/guides/secure-requests
//
// Rate limits are obeyed per page, as the usage headers report them: a call for a
// page that is over its limit waits if the wait is short, and otherwise fails at
// once with an error of class [meta.Throttled]; calls for other pages are not
// delayed. Limits are kept in memory, for this process only.
//
// An error that Graph returns is a [meta.Error]; its class is what it means for
// the caller.
package graph
