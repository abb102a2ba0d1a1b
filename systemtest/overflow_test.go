package systemtest

import (
	"bytes"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// TestOverflowBitmap keeps the journal away until the WAL of a group with overflow:
// bitmap has been full several times over, with the agent killed in between. Writers
// never wait, the twin stays at its last point, and when the journal is back a resync
// (under load, and killed once) brings it up to date.
func TestOverflowBitmap(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	c := newCluster(t, 1)
	c.form()
	s := newSite(t, siteConf{url: c.store, journal: c.addresses(), walBudget: "32MiB"})
	s.mustStart()
	s.verb("group", "create", "g", "--overflow", "bitmap")
	s.verb("volume", "create", "v", "--group", "g", "--size", "24MiB")
	v := &imaged{t, s, "g", "v", make([]byte, 24<<20), map[string][]byte{}}
	conn := s.dial("v")
	v.overwrite(conn, r, 300)
	v.mark("b0")
	s.drained("g", time.Minute)
	v.exact()
	before := s.group("g").LastLSN

	m := c.members[0]
	m.kill()
	overflow := func(n int) {
		t.Helper()
		slowest := time.Duration(0)
		for range n {
			start := time.Now()
			v.overwrite(conn, r, 100)
			slowest = max(slowest, time.Since(start))
		}
		t.Log("the slowest hundred writes and a flush took", slowest)
		until(t, time.Minute, "the group is resyncing", func() error {
			if g := s.group("g"); g.State != "Resyncing" || !strings.Contains(g.Reason, "have changed since LSN") ||
				g.DurableLSN > before {
				return fmt.Errorf("%+v", g)
			}
			return nil
		})
	}
	overflow(80) // 140 MiB through 32
	wantError(t, "bookmark", s.pollux("bookmark", "add", "never", "--group", "g", "--json"), fail.Refused, "resyncing")
	s.agent.Kill()
	s.mustStart()
	conn = s.dial("v")
	overflow(40)
	if changed := s.verb("volume", "changed", "v", "--after", fmt.Sprint(before)); changed["bytes"].(float64) < 1<<20 {
		t.Errorf("%v", changed)
	}
	if _, lsn := s.restore("v", ""); lsn != before {
		t.Errorf("the newest point is LSN %d, want %d", lsn, before)
	}
	v.check("b0", fmt.Sprint(before))

	m.start()
	copying := func() error {
		if g := s.group("g"); !strings.Contains(g.Reason, "are copied") && g.State != "Replicating" {
			return fmt.Errorf("%+v", g)
		}
		return nil
	}
	until(t, time.Minute, "the resync runs", copying)
	v.overwrite(conn, r, 50)
	s.agent.Kill()
	s.mustStart()
	conn = s.dial("v")
	v.overwrite(conn, r, 50)
	until(t, time.Minute, "the group replicates", func() error {
		v.overwrite(conn, r, 5)
		if g := s.group("g"); g.State != "Replicating" {
			return fmt.Errorf("%+v", g)
		}
		return nil
	})
	v.mark("after")
	s.drained("g", time.Minute)
	v.check("", "b0", "after", fmt.Sprint(before))
	o := s.pollux(append([]string{"restore", "v", "-o", s.dir + "/none", "--json", "--at", fmt.Sprint(before + 1)},
		s.storeArgs()...)...)
	wantError(t, "a point in the gap", o, fail.NotFound, "resync", fmt.Sprint(before))
	points := s.pollux(append([]string{"points", "g"}, s.storeArgs()...)...)
	if points.code != 0 || !strings.Contains(points.stdout, fmt.Sprintf("no point after LSN %d ", before)) ||
		!strings.Contains(points.stdout, "bookmark after") {
		t.Errorf("%s%s", points.stdout, points.stderr)
	}
	if out := s.pollux(append([]string{"dump", "log"}, s.storeArgs()...)...); out.code != 0 ||
		!strings.Contains(out.stdout, "resync-end") {
		t.Errorf("code %d: %s%s", out.code, tail(out.stdout, 5), out.stderr)
	}
}

// TestResyncUnderLoad: what clients write to the very blocks that a resync copies is
// never undone, on the primary and in the twin.
func TestResyncUnderLoad(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	c := newCluster(t, 1)
	c.form()
	s := newSite(t, siteConf{url: c.store, journal: c.addresses(), walBudget: "32MiB"})
	s.mustStart()
	s.verb("group", "create", "g", "--overflow", "bitmap")
	s.verb("volume", "create", "v", "--group", "g", "--size", "24MiB")
	v := &imaged{t, s, "g", "v", make([]byte, 24<<20), map[string][]byte{}}
	conn := s.dial("v")
	m := c.members[0]
	for round := range 3 {
		s.drained("g", time.Minute)
		m.kill()
		until(t, time.Minute, "the WAL overflows", func() error {
			v.overwrite(conn, r, 100)
			if g := s.group("g"); g.State != "Resyncing" {
				return fmt.Errorf("%+v", g)
			}
			return nil
		})
		m.start()
		var hot atomic.Int64
		until(t, 2*time.Minute, "the resync ends", func() error {
			// Small hot spots, trims and large zeros among the writes.
			v.overwrite(conn, r, 20)
			off := r.Int64N(20) << 20
			if err := conn.Trim(t.Context(), off, 3<<20, 0); err != nil {
				t.Fatal(err)
			}
			clear(v.image[off : off+3<<20])
			hot.Add(1)
			if g := s.group("g"); g.State != "Replicating" {
				return fmt.Errorf("%+v", g)
			}
			return nil
		})
		got := make([]byte, len(v.image))
		for off := int64(0); off < int64(len(got)); off += 1 << 20 {
			if err := conn.ReadAt(t.Context(), got[off:off+1<<20], off); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, v.image) {
			sameBytes(t, fmt.Sprintf("the volume after round %d", round), got, v.image)
		}
		s.drained("g", time.Minute)
		v.check("")
		t.Logf("round %d: %d rounds of load beside the resync", round, hot.Load())
	}
}
