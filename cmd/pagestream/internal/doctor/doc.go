// Package doctor examines pages and the installation: it gathers what is known,
// asks Graph, and lets package meta judge.
//
// What it finds is on record afterwards, so that those who judge by the record
// come to the same.
package doctor
