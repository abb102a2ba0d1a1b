package layering

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

const (
	maxColumns = 120
	tabColumns = 4
)

// longLines are the files of package main of which not all lines are short yet: short ones are
// more, and TestMainIsSmall has no room for them. A file is taken off when they are; none is added.
var longLines = []string{"cmd/pollux/bookmark.go", "cmd/pollux/clone.go", "cmd/pollux/cost.go",
	"cmd/pollux/doctor.go", "cmd/pollux/gc.go", "cmd/pollux/group.go", "cmd/pollux/journal.go", "cmd/pollux/mount.go",
	"cmd/pollux/restore.go", "cmd/pollux/verify.go", "cmd/pollux/volume.go", "cmd/pollux/volume_accept.go"}

// TestLineLength: lines of Go and Markdown end at column 120 at the latest. A row of a table,
// and a line that a link or a name without a gap fills, may be longer.
func TestLineLength(t *testing.T) {
	for _, path := range sources(t, ".go", ".md") {
		folder := strings.TrimPrefix(filepath.ToSlash(path), "../../")
		if slices.Contains(longLines, folder) {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(path, ".go") && generated.Match(b) {
			continue
		}
		n := 0
		for line := range strings.Lines(string(b)) {
			n++
			line = strings.TrimRight(line, "\n")
			if k := columns(line); k > maxColumns && !mayBeLong(path, line) {
				t.Errorf("%s:%d: %d columns, more than %d", folder, n, k, maxColumns)
			}
		}
	}
}

var (
	generated = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)
	link      = regexp.MustCompile(`https?://\S+`)
)

func columns(line string) int {
	return utf8.RuneCountInString(line) + strings.Count(line, "\t")*(tabColumns-1)
}

// mayBeLong reports whether a line cannot be broken, or need not.
func mayBeLong(path, line string) bool {
	if strings.HasSuffix(path, ".md") && strings.HasPrefix(strings.TrimSpace(line), "|") {
		return true
	}
	return columns(link.ReplaceAllString(line, "")) <= maxColumns && link.MatchString(line)
}
