package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
)

// TestDocsAskNothing: a block of a document is pasted as it is, so that no line of one may
// ask.
func TestDocsAskNothing(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range append(files, "../../README.md") {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(b), "\n") {
			_, args, ok := strings.Cut(line, "pollux ")
			if !ok || !strings.HasPrefix(line, "    ") || strings.Contains(line, "--yes") ||
				strings.Contains(line, "--dry-run") {
				continue
			}
			c, _, err := newRoot().Find(strings.Fields(args))
			if err != nil || c.Flags().Lookup("yes") == nil {
				continue
			}
			asks := true
			switch cli.VerbOf(c) {
			case "restore":
				asks = strings.Contains(line, "--overwrite")
			case "group create", "group set":
				asks = strings.Contains(line, "--retention")
			}
			if asks {
				t.Errorf("%s:%d: %s: it asks; add --yes", file, i+1, strings.TrimSpace(line))
			}
		}
	}
}
