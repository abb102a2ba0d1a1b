package promote

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/pollux-dr/pollux/internal/config"
)

// TestFarthestOfLaterEpoch: a log that ends on a dead branch is not taken, however long that is, where
// another has what went on. The first seat uploads more to the one target than to the other, and is
// lost; the second goes on from the other, and is lost as well.
func TestFarthestOfLaterEpoch(t *testing.T) {
	s := newSites(t)
	a := s.primary()
	dead := filepath.Join(s.dir, "dead")
	if err := os.CopyFS(dead, os.DirFS(s.store)); err != nil {
		t.Fatal(err)
	}
	live := s.store
	s.store = dead
	d := s.start(s.conf(a.Name, a.Site))
	for i := range int64(20) {
		s.write(a, i*8192, 'D')
	}
	s.drained(a)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	s.store = live
	b := s.conf("host-b", "busan")
	if _, err := Force(t.Context(), s.options(b)); err != nil {
		t.Fatal(err)
	}
	d = s.start(b)
	s.write(b, 0, 'L')
	s.drained(b)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(s.dir, "host-c.yaml")
	text := fmt.Sprintf("name: host-c\nsite: daegu\nstate: %s/host-c\nruntime: %s/run-c\njournal:\n  targets:\n"+
		"  - {name: dead, url: %q, site: seoul}\n  - {name: live, url: %q, site: incheon}\n", s.dir, s.dir,
		"file://"+dead, "file://"+live)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.LoadAgent(path)
	if err != nil {
		t.Fatal(err)
	}
	o := s.options(c)
	o.DryRun = true
	rep, err := Force(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if rep.Target != "live" || rep.FromEpoch != 2 || rep.FromSite != "busan" {
		t.Errorf("it takes target %s, epoch %d of %s", rep.Target, rep.FromEpoch, rep.FromSite)
	}
}
