// Package callbacks serves Meta's callbacks about a person who uses the app to
// manage pages: that they have removed the app (deauthorize), and that they want
// their data deleted.
//
// Both callbacks identify the admin of page connections by an app-scoped id; a
// customer of a page can't be identified by it. Both end the connections that the
// admin has made before the request was issued. The second also deletes the admin's id
// and tokens; everything else in the pages' events is kept. A request that is older than
// a day is refused.
// https://developers.facebook.com/docs/facebook-login/guides/advanced/manual-flow#deauth-callback
// https://developers.facebook.com/docs/development/create-an-app/app-dashboard/data-deletion-callback
package callbacks
