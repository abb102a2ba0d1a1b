package systemtest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/child"
)

// TestPostgresAtAnyPoint runs PostgreSQL under pgbench, and restores and mounts the
// volume at bookmarks and at random points (POLLUX_POINTS of them, 2 by default), with
// and without catalogs before them: the server starts, recovers, passes amcheck, and
// holds exactly the commits up to that point.
func TestPostgresAtAnyPoint(t *testing.T) {
	r := newRand(t)
	s := newSite(t, siteConf{})
	s.mustStart()
	s.volume("g", "v", "1GiB")
	dir, unmount := s.ext4("v")
	pg := newPostgres(t)
	if pg == nil {
		t.Fatal("PostgreSQL is not installed: apt-get install postgresql")
	}
	l := startLoad(t, s, pg, dir)
	pg.run(t, "pgbench", "-h", pg.socket, "-U", "postgres", "-i", "-q", "-s", "2", "postgres")
	load := pg.command("pgbench", "-h", pg.socket, "-U", "postgres", "-n", "-c", "2", "-T", "600", "postgres")
	said := new(locked)
	load.Stdout, load.Stderr = said, said
	bench, err := child.Start(load)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(bench.Kill)
	first := s.group("g").LastLSN
	ats := []string{}
	for i := range 3 {
		l.atLeast(t, "postgres", 60*(i+1))
		ats = append(ats, fmt.Sprint("mark", i))
		s.verb("bookmark", "add", ats[i], "--group", "g")
		if i < 2 {
			s.verb(append([]string{"gc"}, s.storeArgs()...)...)
		}
	}
	l.atLeast(t, "postgres", 220)
	until(t, 2*time.Minute, "100 transactions of pgbench", func() error {
		n, err := strconv.Atoi(strings.TrimSpace(pg.sql(t, "SELECT count(*) FROM pgbench_history")))
		if err == nil && n < 100 {
			err = fmt.Errorf("it made %d: %s", n, said)
		}
		return err
	})
	l.stop()
	bench.Kill()
	pg.stop()
	unmount()
	s.drained("g", time.Minute)
	last := s.group("g").LastLSN
	s.agent.Kill()

	points, _ := strconv.Atoi(os.Getenv("POLLUX_POINTS"))
	if points == 0 {
		points = 2
	}
	for range points {
		ats = append(ats, fmt.Sprint(s.exact("v", first+r.Uint64N(last-first))))
	}
	for i, at := range ats {
		t.Run("at "+at, func(t *testing.T) { s.databaseAt(t, pg, l, r, at, i%2 == 0) })
	}
}

// databaseAt starts the database as it was at a point.
func (s *site) databaseAt(t *testing.T, pg *postgres, l *dbLoad, r *rand.Rand, at string, mounted bool) {
	work := t.TempDir()
	var path string
	var lsn uint64
	if mounted {
		args := []string{"v", "--at", at, "--writable", "--cache", work, "--nbd",
			filepath.Join(s.shm, fmt.Sprintf("m%d", r.Uint32()))}
		if r.IntN(2) == 0 {
			args = append(args, "--cache-size", "16MiB")
		}
		m := s.mount(args...)
		lsn = uint64(m.said["lsn"].(float64))
		path, _ = nbdFuse(t, filepath.Join(s.dir, "nbd-"+at), m.said["uri"].(string))
		defer m.end(t)
	} else {
		path = filepath.Join(work, "v.img")
		restored := s.verb(append([]string{"restore", "v", "--at", at, "-o", path}, s.storeArgs()...)...)
		lsn = uint64(restored["lsn"].(float64))
	}
	dev, endLoop := loop(t, path)
	dir := filepath.Join(s.dir, "at-"+at)
	endMount := mount(t, dev, dir)
	defer endLoop()
	defer endMount()
	got := pg.verify(t, dir)
	pg.stop()
	least, most := 0, 0
	for i, c := range l.commits {
		if c.lsn <= lsn {
			least = c.n
		}
		if i == 0 || l.commits[i-1].lsn < lsn { // it may have begun before the point
			most = c.n
		}
	}
	for i, n := range got {
		if n != i+1 {
			t.Fatalf("commit %d stands where %d must", n, i+1)
		}
	}
	if len(got) < least || len(got) > most+1 {
		t.Errorf("LSN %d: %d commits, want %d to %d", lsn, len(got), least, most+1)
	}
	t.Logf("LSN %d, mounted %v: %d commits", lsn, mounted, len(got))
}
