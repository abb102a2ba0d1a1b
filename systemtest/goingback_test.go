package systemtest

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// TestGoingBack sets a volume in use back in place, over its own device, and forward
// again: it keeps its name and its history, and only what differs is fetched and written.
func TestGoingBack(t *testing.T) {
	s := newSite(t, siteConf{})
	s.mustStart()
	const size, few = 32 << 20, 20
	s.volume("g", "v", "32MiB")
	conn, img, r := s.dial("v"), make([]byte, size), rand.NewChaCha8([32]byte{9})
	noise(t, conn, img, r, 1000)
	s.mark("g", "early")
	early := append([]byte{}, img...)
	noise(t, conn, img, r, few)
	s.mark("g", "late")
	path, _ := s.nbdFile("v")
	device, _ := loop(t, path)

	restore := func(args ...string) []string { return append(append([]string{"restore"}, args...), s.storeArgs()...) }
	onto := func(args ...string) []string {
		return restore(append([]string{"v", "-o", device, "--overwrite", "--yes"}, args...)...)
	}
	for _, way := range []struct {
		from, at string
		want     []byte
	}{{"late", "early", early}, {"back-early", "late", img}} {
		o := s.verb(onto("--from", way.from, "--at", way.at, "--verify")...)
		written, fetched := o["written_bytes"].(float64), o["read_bytes"].(float64)
		if written == 0 || written > few*4096 || fetched > 1000*4096/4 {
			t.Errorf("%s to %s: %v bytes fetched, %v written, for %d blocks of 4 KiB that differ",
				way.from, way.at, fetched, written, few)
		}
		sameBytes(t, "the volume at "+way.at, readAll(t, s.dial("v")), way.want)
		s.mark("g", "back-"+way.at)
		s.checkTwin(t, conn, way.want)
	}

	for _, wrong := range []struct {
		args  []string
		kind  fail.Kind
		names string
	}{
		{onto("--from", "nosuch"), fail.NotFound, "nosuch"},
		{onto("--from", "back-early", "--at", "early"), fail.Refused, "was written to since"},
		{onto("--from", "late", "--resume"), fail.Invalid, "--resume"},
		{restore("v", "-o", s.dir+"/new.img", "--from", "late"), fail.Invalid, "--from"},
		{restore("g", "-o", s.dir, "--from", "late"), fail.Invalid, "--from"},
	} {
		o, code := s.pollux(wrong.args...), fail.ExitCode(fail.New(wrong.kind, "", "", ""))
		if o.code != code || !strings.Contains(o.stderr, wrong.names) {
			t.Errorf("pollux %s: %d, %s", strings.Join(wrong.args, " "), o.code, o.stderr)
		}
	}
	s.drained("g", time.Minute)
}
