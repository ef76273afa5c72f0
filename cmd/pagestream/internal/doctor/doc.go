// Package doctor examines pages and the installation: it collects what is known,
// asks Graph, and calls package meta for the judgement.
//
// What it learns is recorded as events, so that a later judgement by the read models
// has the same result.
package doctor
