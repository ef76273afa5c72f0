// Package meta is the vocabulary of Meta's side: what Graph's error codes mean,
// the thresholds by which a page is judged, the judgement itself, and the types
// that the packages which talk with Graph share.
//
// Each of these is said here once. A package that needs a code's class, a
// threshold or an outcome asks this one and keeps no copy.
//
// Nothing here does I/O.
package meta
