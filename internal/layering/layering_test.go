package layering

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/pollux-dr/pollux/"

// below says what the packages of a folder may import of this module. Folders
// stand for everything in them; the longest match counts.
var below = map[string][]string{
	"cmd":               {"cmd", "control", "bench", "agent", "replicator", "transport", "wal", "internal"},
	"control":           {"control", "agent", "replicator", "transport", "wal", "internal"},
	"control/api":       {"internal"},
	"bench":             {"bench", "control/api", "replicator", "internal"},
	"agent":             {"agent", "transport", "wal", "internal"},
	"replicator":        {"replicator", "transport", "wal", "internal"},
	"replicator/objlog": {"replicator/objlog", "replicator/objstore", "replicator/state", "internal"},
	"replicator/twin": {"replicator/twin", "replicator/objlog", "replicator/objstore", "replicator/state",
		"internal"},
	"replicator/journal": {"replicator/journal", "replicator/objlog", "replicator/objstore", "replicator/state",
		"transport", "wal", "internal"},
	"transport":                 {"internal/fail"},
	"wal":                       {"internal/fail"},
	"systemtest":                {"internal", "replicator", "wal"},
	"internal":                  {"internal"},
	"internal/doctor":           {"internal", "replicator/objstore"},
	"replicator/state":          {"internal"},
	"replicator/objlog/segment": {"replicator/state", "internal"},
	"replicator/objstore":       {"replicator/objstore", "internal"},
}

// unlinked says what the packages of a wing may not link, however many imports lie between:
// who works from the bucket alone needs no journal, and who only knows what lies in it no
// database and no settings either.
var unlinked = map[string][]string{
	"replicator/objlog":   append([]string{pebble, yaml, module + "replicator/twin"}, writer...),
	"replicator/objstore": append([]string{pebble, yaml, module + "replicator/twin"}, writer...),
	"replicator/state":    append([]string{pebble, yaml, module + "replicator/twin"}, writer...),
	"replicator/twin":     append([]string{yaml, module + "agent"}, writer...),
}

// writer is the journal's side.
var writer = []string{raft, module + "replicator/journal", module + "wal", module + "transport"}

const (
	raft   = "github.com/hashicorp/raft"
	pebble = "github.com/cockroachdb/pebble/v2"
	yaml   = "github.com/goccy/go-yaml" // of settings; an S3 client links one of its own
)

func under(pkg, folder string) bool { return pkg == folder || strings.HasPrefix(pkg, folder+"/") }

func rule(pkg string) (allowed []string, found bool) {
	best := ""
	for folder := range below {
		if under(pkg, folder) && len(folder) > len(best) {
			best, found = folder, true
		}
	}
	return below[best], found
}

func TestUnlinked(t *testing.T) {
	for wing, never := range unlinked {
		out, err := exec.Command("go", "list", "-deps", module+wing+"/...").Output()
		if err != nil {
			t.Fatalf("go list -deps: %v", err)
		}
		for dep := range strings.FieldsSeq(string(out)) {
			for _, p := range never {
				if dep == p || p != pebble && under(dep, p) { // Pebble's file system alone is everywhere
					t.Errorf("%s links %s", wing, dep)
				}
			}
		}
	}
}

func TestImportsPointDown(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	checked := 0
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		pkg := strings.TrimPrefix(fields[0], module)
		allowed, ok := rule(pkg)
		if !ok {
			t.Errorf("%s lies in no folder of the design: add it to the rules, or move it", pkg)
			continue
		}
		checked++
		for _, imp := range fields[1:] {
			imp, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			fine := false
			for _, a := range allowed {
				fine = fine || under(imp, a)
			}
			if !fine {
				t.Errorf("%s imports %s, which is not below it", pkg, imp)
			}
		}
	}
	if checked < 10 {
		t.Fatalf("only %d packages were checked", checked)
	}
}

// maxMainLines bounds what lives in package main, where no daemon can use it: flags and printing.
const maxMainLines = 3500

func TestMainIsSmall(t *testing.T) {
	files, err := filepath.Glob("../../cmd/pollux/*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	lines := 0
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		lines += bytes.Count(b, []byte{'\n'})
	}
	if lines > maxMainLines {
		t.Errorf("package main has %d lines, more than %d: what a daemon could want belongs in control", lines,
			maxMainLines)
	}
}
