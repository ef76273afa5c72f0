// Package operate implements every operator command (verb) as one typed method. The
// API, the console and the offline commands of the command line all call the same
// method.
//
// There is a file for each noun. Errors are written for the operator: they contain no
// token, and name the command to type if there is one. [KindOf] returns the kind of
// an error.
package operate
