// Package login serves the login flow that connects pages in a browser: an
// invitation, Meta's login dialog, the list of granted pages, and the result for
// each chosen page.
//
// It is on the public listener, so a login needs an invitation. The state of a
// login, tokens included, is kept only in memory and for at most half an hour: after
// a restart a login must start again.
package login
