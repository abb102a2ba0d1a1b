package cli

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// didYouMean begins a hint with the likeliest of what was meant, if any is likely.
func didYouMean(likely string, hint string) string {
	if likely == "" {
		return hint
	}
	return "did you mean " + likely + "? Otherwise " + hint
}

// likeCommand is the subcommand that was likely meant.
func likeCommand(c *cobra.Command, typed string) string {
	names := []string{}
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return nearest(typed, names)
}

// likeFlag is the flag that was likely meant.
func likeFlag(c *cobra.Command, typed string) string {
	names := []string{}
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	if n := nearest(strings.TrimLeft(typed, "-"), names); n != "" {
		return "--" + n
	}
	return ""
}

// nearest is the one of names that lacks what is typed least: by two letters at most, or
// as its beginning; "" where none does.
func nearest(typed string, names []string) (best string) {
	least := 3
	for _, n := range names {
		d := distance(typed, n)
		if len(typed) >= 3 && strings.HasPrefix(n, typed) {
			d = min(d, 2)
		}
		if d < least && d < len(n) {
			best, least = n, d
		}
	}
	return best
}

// distance is how many letters must be put in, taken out, changed or swapped with the next.
func distance(a, b string) int {
	var before, row []int // of the last two letters of a
	next := make([]int, len(b)+1)
	for j := range next {
		next[j] = j
	}
	for i := range len(a) {
		before, row, next = row, next, make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			change := row[j]
			if a[i] != b[j] {
				change++
			}
			next[j+1] = min(change, row[j+1]+1, next[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
	}
	return next[len(b)]
}
