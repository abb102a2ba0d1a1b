package layering

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/pollux-dr/pollux/"

// below says what the packages of a folder may import of this module. Folders
// stand for everything in them; the longest match counts.
var below = map[string][]string{
	"cmd":                 {"cmd", "bench", "agent", "replicator", "transport", "wal", "internal"},
	"bench":               {"bench", "agent/nbd", "replicator", "internal"},
	"agent":               {"agent", "transport", "wal", "internal"},
	"replicator":          {"replicator", "transport", "wal", "internal"},
	"transport":           {"internal/fail"},
	"wal":                 {"internal/fail"},
	"systemtest":          {"internal", "replicator", "wal"},
	"internal":            {"internal"},
	"internal/doctor":     {"internal", "replicator/objstore"},
	"replicator/state":    {"internal"},
	"replicator/segment":  {"replicator/state", "internal"},
	"replicator/objstore": {"replicator/objstore", "internal"},
	"replicator/objlog":   {"replicator/objlog", "replicator/objstore", "replicator/segment", "internal"},
}

// unlinked says what packages may not link, however many imports lie between: who works from
// the bucket alone needs no journal.
var unlinked = map[string][]string{
	"replicator/objlog":   {"github.com/hashicorp/raft", "github.com/cockroachdb/pebble/v2", module + "replicator/journal", module + "wal"},
	"replicator/objstore": {"github.com/hashicorp/raft", "github.com/cockroachdb/pebble/v2", module + "replicator/journal", module + "wal"},
	"replicator/twin":     {"github.com/hashicorp/raft", module + "replicator/journal", module + "replicator/uploader", module + "wal", module + "transport"},
	"replicator/gc":       {"github.com/hashicorp/raft", module + "replicator/journal", module + "replicator/uploader", module + "wal", module + "transport"},
	"replicator/image":    {"github.com/hashicorp/raft", module + "replicator/journal", module + "replicator/uploader", module + "wal", module + "transport"},
	"replicator/mount":    {"github.com/hashicorp/raft", module + "replicator/journal", module + "replicator/uploader", module + "wal", module + "transport"},
}

func TestUnlinked(t *testing.T) {
	for pkg, never := range unlinked {
		out, err := exec.Command("go", "list", "-deps", module+pkg).Output()
		if err != nil {
			t.Fatalf("go list -deps: %v", err)
		}
		deps := strings.Fields(string(out))
		for _, p := range never {
			if slices.Contains(deps, p) {
				t.Errorf("%s links %s", pkg, p)
			}
		}
	}
}

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
