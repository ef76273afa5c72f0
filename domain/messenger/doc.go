// Package messenger turns the bytes of one webhook delivery into events. It is
// pure: no clock, no I/O, no failure. What it does not understand it keeps.
//
// Every entry of a delivery and every item of its messaging, standby and changes
// is one event, routed by its own entry's id. Meta may batch the entries of
// several pages in one delivery, and an entry may hold several arrays.
// https://developers.facebook.com/docs/messenger-platform/webhooks
package messenger
