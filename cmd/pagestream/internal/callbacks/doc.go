// Package callbacks answers what Meta posts about a person who uses the app to
// manage pages: that they have removed it, and that they want their data
// deleted.
//
// Both name the admin of page connections by their app-scoped id, never a
// customer of a page: those can't be told from it. Both end the connections that
// the admin has made; the pages' events stay.
// https://developers.facebook.com/docs/facebook-login/guides/advanced/manual-flow#deauth-callback
// https://developers.facebook.com/docs/development/create-an-app/app-dashboard/data-deletion-callback
package callbacks
