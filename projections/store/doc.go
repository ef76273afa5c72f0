// Package store keeps a read model in one bbolt file: the state of a
// projection and its position in the stream, changed together.
//
// It is the only importer of bbolt, and narrows it to what a projection may
// use: named buckets, ordered keys, no auto-incremented sequence, no clock.
package store
