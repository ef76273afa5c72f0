// Package projectionstest checks that the state of a projection depends on the events of the stream and on
// nothing else. [Run] is the test suite. [Events] and [Garbage] generate events for it and for other tests.
// [Rig] runs projections on a real stream.
package projectionstest
