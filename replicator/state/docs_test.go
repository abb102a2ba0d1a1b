package state

import (
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/internal/golden"
)

// TestDocumentedKinds holds the table of docs/formats/command.md against the constants of
// this package: each kind's number beside its name, and no other. A row may list several.
func TestDocumentedKinds(t *testing.T) {
	listed := documentedKinds(t)
	for constant, n := range golden.Constants(t, "Kind", "") {
		name := Kind(n).String()
		if kindNames[Kind(n)] == "" {
			t.Errorf("%s has no name", constant)
		}
		if listed[Kind(n)] != name {
			t.Errorf("docs/formats/command.md has %q for kind %d, want %s", listed[Kind(n)], n, name)
		}
		delete(listed, Kind(n))
	}
	for _, k := range slices.Sorted(maps.Keys(listed)) {
		t.Errorf("docs/formats/command.md lists kind %d, %s, which is none", k, listed[k])
	}
}

// documentedKinds are the rows of the page whose first column is numbers.
func documentedKinds(t *testing.T) map[Kind]string {
	t.Helper()
	page, err := os.ReadFile("../../docs/formats/command.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(page), "\n| kind | name |")
	if !found {
		t.Fatal("docs/formats/command.md has no table of kinds")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	out := map[Kind]string{}
	for _, row := range strings.Split(table, "\n")[2:] {
		columns := strings.Split(row, "|")
		if len(columns) < 4 {
			t.Fatalf("row %q", row)
		}
		numbers, names := strings.Split(columns[1], ","), strings.Split(columns[2], ",")
		if len(numbers) != len(names) {
			t.Errorf("row %q has %d numbers and %d names", row, len(numbers), len(names))
			continue
		}
		for i, s := range numbers {
			n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 16)
			if err != nil {
				t.Fatalf("row %q: %v", row, err)
			}
			if out[Kind(n)] != "" {
				t.Errorf("kind %d is there twice", n)
			}
			out[Kind(n)] = strings.TrimSpace(names[i])
		}
	}
	return out
}
