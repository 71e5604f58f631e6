// Package spelling finds the name that was meant by a misspelt one.
package spelling

import "strings"

// Close is the edit distance within which short names, such as those of fields, count as
// similar.
const Close = 3

// Nearest returns the known name that is most similar to a misspelt one, the first of them
// if several are; empty when none has an edit distance below within.
func Nearest(name string, known []string, within int) string {
	best, least := "", within
	for _, k := range known {
		if d := distance(strings.ToLower(name), k, least); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance returns the edit distance of two words, or limit if it is not below limit.
func distance(a, b string, limit int) int {
	if max(len(a)-len(b), len(b)-len(a)) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return min(row[len(b)], limit)
}
