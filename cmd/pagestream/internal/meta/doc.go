// Package meta is the shared vocabulary for Meta's platform: the classes of
// Graph's error codes, the thresholds by which a page is judged, the judgement
// itself, and the types that the packages which call Graph share.
//
// Each of these is defined here only. A package that needs a code's class, a
// threshold or an outcome imports this one and keeps no copy.
//
// The package does no I/O.
package meta
