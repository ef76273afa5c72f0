// Package nearest finds the name that was probably meant by a name that does not exist.
package nearest

import (
	"slices"
	"strings"
)

// separators are the characters that count as equal.
var separators = strings.NewReplacer(".", "_", "-", "_")

// Name returns the candidate that is most similar to name, or "" if none is similar enough. A wrong
// separator or case counts as no difference.
func Name[S ~string](name S, candidates []S) S {
	best, bestDistance := S(""), tolerated(name)+1
	for _, c := range candidates {
		if d := distance(normalize(name), normalize(c)); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// minPart is how long a name must be to count as a part of a longer one.
const minPart = 3

// Names returns at most n candidates that are similar to name, the most similar first: those that are similar enough
// for [Name], and those that contain the name. Equal ones are in their order among the candidates.
func Names[S ~string](name S, candidates []S, n int) []S {
	type scored struct {
		name     S
		distance int
	}
	var found []scored
	for _, c := range candidates {
		d, limit := distance(normalize(name), normalize(c)), tolerated(name)
		switch {
		case d <= limit:
			found = append(found, scored{c, d})
		case len(name) >= minPart && strings.Contains(normalize(c), normalize(name)):
			found = append(found, scored{c, limit + 1})
		}
	}
	slices.SortStableFunc(found, func(a, b scored) int { return a.distance - b.distance })
	var out []S
	for _, f := range found[:min(n, len(found))] {
		out = append(out, f.name)
	}
	return out
}

// tolerated is the largest distance of a similar name. Numbers are long and similar anyway.
func tolerated[S ~string](name S) int {
	if strings.Trim(string(name), "0123456789") == "" {
		return 2
	}
	return max(2, len(name)/3)
}

func normalize[S ~string](s S) string { return separators.Replace(strings.ToLower(string(s))) }

// distance returns the Levenshtein distance of two names in characters. For names longer than any candidate it
// returns a large number, which limits the work.
func distance(x, y string) int {
	const maxLen = 200
	if len(x) > maxLen || len(y) > maxLen {
		return maxLen
	}
	a, b := []rune(x), []rune(y)
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
