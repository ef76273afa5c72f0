// Package nearest finds the name that was probably meant by a name that does not exist.
package nearest

import "strings"

// separators are the characters that count as equal.
var separators = strings.NewReplacer(".", "_", "-", "_")

// Name returns the candidate that is most similar to name, or "" if none is similar enough. A wrong
// separator or case counts as no difference.
func Name[S ~string](name S, candidates []S) S {
	normalize := func(s S) string { return separators.Replace(strings.ToLower(string(s))) }
	best, bestDistance := S(""), max(2, len(name)/3)+1
	for _, c := range candidates {
		if d := distance(normalize(name), normalize(c)); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance returns the Levenshtein distance of two names. For names longer than any candidate it
// returns a large number, which limits the work.
func distance(a, b string) int {
	const maxLen = 200
	if len(a) > maxLen || len(b) > maxLen {
		return maxLen
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(diagonal+cost, row[j]+1, row[j+1]+1)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
