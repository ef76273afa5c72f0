// Package projectionstest checks that a projection is one: that its state is a
// fold of the stream and of nothing else. [Run] is the suite; [Events] and
// [Garbage] make traffic for it and for other tests.
package projectionstest
