package systemtest

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/s3test"
)

// smallDisk mounts a tmpfs of a few bytes; grow makes it large enough.
func smallDisk(t *testing.T, size string) (dir string, grow func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "pst-")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatalf("mount tmpfs (run as root): %v", err)
	}
	t.Cleanup(func() {
		_ = syscall.Unmount(dir, syscall.MNT_DETACH)
		_ = os.Remove(dir)
	})
	return dir, func() {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=1g"); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFullStateDisk has no room for the agent's files at all.
func TestFullStateDisk(t *testing.T) {
	dir, grow := smallDisk(t, "3m")
	s := newSite(t, siteConf{state: filepath.Join(dir, "state")})
	o := s.runAgent()
	wantLast(t, "agent", withoutLog(o), fail.Full, s.conf.state)
	grow()
	s.mustStart()
	s.volume("g", "v", "1MiB")
}

// TestFullBackingDisk fills the disk below a volume: writers wait, the status
// names the file, and with more room all goes on.
func TestFullBackingDisk(t *testing.T) {
	dir, grow := smallDisk(t, "4m")
	s := newSite(t, siteConf{memory: "8MiB"})
	s.mustStart()
	backing := filepath.Join(dir, "v.img")
	s.verb("group", "create", "g")
	s.verb("volume", "create", "v", "--group", "g", "--size", "16MiB", "--backing", backing)
	w := newWriter(s, "g", "v", exactBytes, newRand(t))
	w.fillUntilBlocked(t, backing, grow)
}

// TestFullWALDisk fills the disk below the WAL, long before its budget is used
// up, while the store is away.
func TestFullWALDisk(t *testing.T) {
	t.Parallel()
	dir, grow := smallDisk(t, "96m")
	srv := startStore(t, s3test.VersityGW)
	c := s3Conf(srv, srv.Endpoint)
	c.state, c.memory = filepath.Join(dir, "state"), "8MiB"
	s := newSite(t, c)
	s.mustStart()
	s.volume("g", "v", "16MiB")
	w := newWriter(s, "g", "v", exactBytes, newRand(t))
	s.drained("g", time.Minute)
	if err := srv.Kill(); err != nil {
		t.Fatal(err)
	}
	w.fillUntilBlocked(t, c.state, func() {
		grow()
		if err := srv.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// fillUntilBlocked writes until that blocks for a reason that names why, and
// checks that nothing is lost and that it goes on after mend.
func (w *writer) fillUntilBlocked(t *testing.T, why string, mend func()) {
	t.Helper()
	w.connect()
	stop := w.background()
	w.mustBlock(why)
	t.Logf("blocked: %s", w.site.group("g").Reason)
	mend()
	w.progress(100)
	stop()
	w.verify()
	w.site.drained("g", time.Minute)
	if lsn := w.checkNewest(); lsn != w.h.lsn {
		t.Fatalf("the newest point is LSN %d, want %d", lsn, w.h.lsn)
	}
}

// withoutLog drops the agent's log lines before its last words.
func withoutLog(o outcome) outcome {
	o.stderr = tail(o.stderr, 2) + "\n"
	return o
}
