// Package subscriptions is the read model of the webhook subscription of each
// page to each app: what fields we want, what Graph last said they are, the
// state that follows, and how it came to that.
package subscriptions
