package systemtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/s3test"
)

// TestFailoverWithoutRoom: the new site has credentials that the store does not take, and then a disk on
// which there is room for one step more each time. Each run ends with one error that says so, and the
// one with room for all of it has everything.
func TestFailoverWithoutRoom(t *testing.T) {
	t.Parallel()
	srv := startStore(t, s3test.VersityGW)
	a := newSite(t, s3Conf(srv, srv.Endpoint))
	a.mustStart()
	a.volume("g", "v", "4MiB")
	w := newWriter(a, "g", "v", smallBytes, newRand(t))
	w.write(150)
	a.drained("g", time.Minute)
	a.agent.Kill()

	dir, _ := smallDisk(t, "4k")
	c := s3Conf(srv, srv.Endpoint)
	c.name, c.state, c.credentials = "host2", filepath.Join(dir, "state"), filepath.Join(t.TempDir(), "credentials")
	b := newSite(t, c)
	b.placed("")
	bad := "[default]\naws_access_key_id = nobody\naws_secret_access_key = wrong\n"
	if err := os.WriteFile(c.credentials, []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	verb := []string{"failover", "--force", "--yes", "--wait-for-data", "-c", b.config()}
	wantLast(t, "bad credentials", b.pollux(verb...), fail.Denied, "s3://remote/journal1")
	good, err := os.ReadFile(srv.CredentialsFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.credentials, good, 0o600); err != nil {
		t.Fatal(err)
	}

	full := 0
	for kib := 4; ; kib += kib/2 + 4 {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, fmt.Sprintf("size=%dk", kib)); err != nil {
			t.Fatal(err)
		}
		o := b.pollux(verb...)
		if o.code == 0 {
			break
		}
		full++
		o.stderr = strings.ReplaceAll(o.stderr, "pollux: volume v is restored before", "volume v is restored before")
		wantLast(t, fmt.Sprintf("a disk of %d KiB", kib), o, fail.Full, dir)
		if strings.Contains(o.stderr, "panic") || kib > 1<<20 {
			t.Fatalf("a disk of %d KiB: %s", kib, o.stderr)
		}
	}
	t.Logf("%d runs found no room", full)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=1g"); err != nil {
		t.Fatal(err)
	}
	b.mustStart()
	w = w.goOnAt(b, w.h.lsn)
	w.write(20)
	w.verify()
	b.drained("g", time.Minute)
	w.checkNewest()
}
