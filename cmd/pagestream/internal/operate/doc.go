// Package operate has every verb that an operator has, each once and typed: the
// API, the console and the command line's offline half all call the same method.
//
// Methods stand in a file by their noun. An error is for the operator to read: it
// has no token in it and, where there is one, says what to type. [KindOf] says
// what kind it is.
package operate
