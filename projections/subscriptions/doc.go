// Package subscriptions is the read model of the webhook subscription of each
// page to each app: the wanted fields, the fields that Graph last listed, the
// resulting state, and its history.
package subscriptions
