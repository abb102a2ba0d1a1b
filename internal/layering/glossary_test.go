package layering

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestGlossary holds docs/glossary.md against the tree: each word once, in alphabetical
// order, and each place that it names (a folder, a file, `folder.Name`, or a name in
// brackets behind one) is there.
func TestGlossary(t *testing.T) {
	page, err := os.ReadFile("../../docs/glossary.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(page), "\n|---|---|---|---|\n")
	if !found {
		t.Fatal("docs/glossary.md has no table")
	}
	before := ""
	for row := range strings.Lines(table) {
		columns := strings.Split(row, "|")
		if len(columns) != 6 {
			t.Fatalf("row %q has %d columns, want 4", row, len(columns)-2)
		}
		word := strings.ToLower(strings.TrimSpace(columns[1]))
		if word <= before {
			t.Errorf("%q does not come behind %q", word, before)
		}
		before = word
		if strings.TrimSpace(columns[2]) == "" {
			t.Errorf("%q has no meaning", word)
		}
		checkPlaces(t, word, columns[3])
	}
}

// checkPlaces looks for what a cell names. Names in brackets belong to the folder before.
func checkPlaces(t *testing.T, word, cell string) {
	folder := ""
	for _, m := range regexp.MustCompile("(\\()?`([^`]+)`|, `([^`]+)`\\)").FindAllStringSubmatch(cell, -1) {
		place := m[2] + m[3]
		name := ""
		switch _, err := os.Stat(filepath.Join("../..", place)); {
		case err == nil:
			folder = place
			continue
		case folder != "" && exported(place):
			name = place
		default:
			folder, name, _ = strings.Cut(place, ".")
		}
		if !declares(t, folder, name) {
			t.Errorf("%q: %s is not in the tree", word, place)
		}
	}
	if folder == "" {
		t.Errorf("%q has no place", word)
	}
}

func exported(s string) bool { return regexp.MustCompile(`^[A-Z]\w*$`).MatchString(s) }

// declares reports whether a folder's source has a name at the beginning of a declaration:
// of a type, function, method, constant or field.
func declares(t *testing.T, folder, name string) bool {
	files, err := filepath.Glob(filepath.Join("../..", folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	declaration := regexp.MustCompile(`(?m)^(?:type |const |var |func (?:\([^)]*\) )?|\t(?:\w+, )*)` +
		regexp.QuoteMeta(name) + `\b`)
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(file, "_test.go") && declaration.Match(source) {
			return true
		}
	}
	return false
}
