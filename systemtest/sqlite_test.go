package systemtest

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

type sqlite struct {
	program string
	mode    string // PRAGMA journal_mode
}

func newSQLite(t *testing.T, wal bool) *sqlite {
	t.Helper()
	mode := "DELETE"
	if wal {
		mode = "WAL"
	}
	t.Log("SQLite journal mode", mode)
	return &sqlite{tool(t, "sqlite3", "sqlite3"), mode}
}

func (q *sqlite) load(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	db := filepath.Join(dir, "test.db")
	run(t, q.program, db, "PRAGMA journal_mode="+q.mode+"; CREATE TABLE t (n INTEGER PRIMARY KEY, pad TEXT);")
	// Without stdbuf, answers to a pipe would come late. FULL would not sync the
	// directory after the journal's deletion, which is what commits.
	return exec.Command(tool(t, "stdbuf", "coreutils"), "-oL", q.program, "-cmd", "PRAGMA synchronous=EXTRA", db)
}

func (q *sqlite) verify(t *testing.T, dir string) []int {
	t.Helper()
	db := filepath.Join(dir, "test.db")
	if got := run(t, q.program, db, "PRAGMA integrity_check;"); got != "ok" {
		t.Errorf("SQLite: %s", got)
	}
	return numbers(t, run(t, q.program, db, "SELECT n FROM t ORDER BY n;"))
}

func (q *sqlite) stop() {}

func numbers(t *testing.T, text string) (out []int) {
	t.Helper()
	for _, f := range strings.Fields(text) {
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, n)
	}
	return out
}
