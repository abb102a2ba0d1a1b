package systemtest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/child"
)

// database is a real one on a mounted filesystem.
type database interface {
	// load opens a client whose standard input takes SQL and whose standard
	// output gives one line per SELECT, at once.
	load(t *testing.T, dir string) *exec.Cmd
	// verify recovers the database in dir, runs its own checks and returns the
	// commits that it holds, in order.
	verify(t *testing.T, dir string) []int
	// stop kills what runs.
	stop()
}

// commit is one that the database has confirmed: n, and the LSN at which the
// volume held it.
type commit struct {
	n   int
	lsn uint64
}

// TestDatabase runs databases on an ext4 on a volume, loses the site in
// mid-load, and finds every commit in the twin that was reported durable.
func TestDatabase(t *testing.T) {
	r := newRand(t)
	s := newSite(t, siteConf{})
	s.mustStart()
	s.volume("g", "v", "512MiB")
	dir, unmount := s.ext4("v")

	dbs := map[string]database{"sqlite": newSQLite(t, r.IntN(2) == 0)}
	if pg := newPostgres(t); pg != nil {
		dbs["postgres"] = pg
	}
	loads := map[string]*dbLoad{}
	for name, db := range dbs {
		loads[name] = startLoad(t, s, db, dir)
	}
	for name, l := range loads {
		l.atLeast(t, name, 50)
	}
	time.Sleep(time.Duration(1000+r.IntN(1000)) * time.Millisecond) // of load
	durable := s.group("g").DurableLSN
	s.agent.Kill()
	for name, l := range loads {
		l.stop()
		dbs[name].stop()
	}
	unmount()

	twin, lsn := s.restoreFile("v", "")
	if lsn < durable {
		t.Fatalf("the twin is at LSN %d, but %d was reported durable", lsn, durable)
	}
	dev2, _ := loop(t, twin)
	dir2 := filepath.Join(s.dir, "twin")
	mount(t, dev2, dir2) // read-write: the journal recovers
	for name, db := range dbs {
		loads[name].check(t, name, db.verify(t, dir2), durable)
		db.stop()
	}
}

// dbLoad is a client that commits 1, 2, 3, … and notes each.
type dbLoad struct {
	cancel context.CancelFunc
	client *child.Process
	done   chan struct{}

	mu      sync.Mutex
	commits []commit
}

func startLoad(t *testing.T, s *site, db database, dir string) *dbLoad {
	t.Helper()
	cmd := db.load(t, dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	l := &dbLoad{done: make(chan struct{})}
	if l.client, err = child.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.client.Kill)
	ctx, cancel := context.WithCancel(t.Context())
	l.cancel = cancel
	go l.run(ctx, s, in, out)
	return l
}

func (l *dbLoad) run(ctx context.Context, s *site, in io.Writer, out io.Reader) {
	defer close(l.done)
	lines := bufio.NewScanner(out)
	for n := 1; ctx.Err() == nil; n++ {
		if _, err := fmt.Fprintf(in, "INSERT INTO t VALUES (%d, '%s'); SELECT %d;\n", n, strings.Repeat("x", n*37%3000),
			n); err != nil {
			return
		}
		if !lines.Scan() || lines.Text() != fmt.Sprint(n) {
			return
		}
		st, err := s.tryStatus()
		if err != nil {
			return // killed; whether this one was durable nobody knows
		}
		l.mu.Lock()
		l.commits = append(l.commits, commit{n, st.Groups[0].LastLSN})
		l.mu.Unlock()
	}
}

func (l *dbLoad) atLeast(t *testing.T, name string, n int) {
	t.Helper()
	until(t, time.Minute, name+" commits", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.commits) < n {
			return fmt.Errorf("%d so far", len(l.commits))
		}
		return nil
	})
}

func (l *dbLoad) stop() {
	l.cancel()
	l.client.Kill()
	<-l.done
}

// check wants every commit that was durable, in order and without holes, and
// nothing that was never asked for.
func (l *dbLoad) check(t *testing.T, name string, got []int, durable uint64) {
	t.Helper()
	want := 0
	for _, c := range l.commits {
		if c.lsn <= durable {
			want = c.n
		}
	}
	for i, n := range got {
		if n != i+1 {
			t.Fatalf("%s: commit %d stands where %d must", name, n, i+1)
		}
	}
	t.Logf("%s: %d commits in the twin, %d reported durable, %d confirmed", name, len(got), want, len(l.commits))
	if len(got) < want {
		t.Errorf("%s: the twin has %d commits, %d were reported durable", name, len(got), want)
	}
	if len(got) > len(l.commits)+2 {
		t.Errorf("%s: the twin has %d commits, only %d were made", name, len(got), len(l.commits))
	}
}
