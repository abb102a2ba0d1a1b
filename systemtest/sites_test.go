package systemtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestTargetAtTheSeat: a target at the journal's own site counts for nothing that is promised to
// outlive the site. While it is away, ack: remote is kept by the one elsewhere; where it is the
// only one, the group is Unprotected, and a right name puts that right at the next start.
func TestTargetAtTheSeat(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	near := filepath.Join(dir, "near")
	s := newSite(t, siteConf{target: fmt.Sprintf(
		"    - name: near\n      site: local\n      url: file://%s\n      requests: {rate: 0}\n", near)})
	s.mustStart()
	s.volume("g", "v", "16MiB")
	s.verb("group", "set", "g", "--ack", "remote")
	w := newWriter(s, "g", "v", exactBytes, newRand(t))
	w.connect()
	stop := w.background()
	w.progress(100)

	if err := os.Rename(near, near+"-away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(near, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	until(t, time.Minute, "the target at the seat fails", func() error {
		for _, x := range s.status().Targets {
			if x.Name == "near" && x.Error != "" {
				return nil
			}
		}
		return fmt.Errorf("%+v", s.status().Targets)
	})
	w.progress(300) // flushes among them
	stop()
	if err := w.conn.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if g := s.group("g"); g.State != "Replicating" || !strings.Contains(g.Reason, "near") || g.DurableLSN != g.LastLSN {
		t.Errorf("while it is away: %+v", g)
	}
	if lsn := s.storeLastLSN("v"); lsn < w.h.lsn {
		t.Errorf("the far target holds LSN %d of %d", lsn, w.h.lsn)
	}
	if err := os.Remove(near); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(near+"-away", near); err != nil {
		t.Fatal(err)
	}

	named := func(site, state string) {
		t.Helper()
		s.stop()
		config, err := os.ReadFile(s.config())
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(config), "\n")
		lines[0] += "\nsite: " + site
		if err := os.WriteFile(s.config(), []byte(strings.Join(lines, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
		s.mustStart()
		until(t, time.Minute, "the state "+state, func() error {
			if g := s.group("g"); g.State != state {
				return fmt.Errorf("%+v", g)
			}
			return nil
		})
		s.configure()
	}
	named("elsewhere", "Replicating") // both are outside then
	s.conf.target = strings.Replace(s.conf.target, "site: local", "site: remote", 1)
	s.configure()
	named("remote", "Unprotected")
	out := s.pollux("group", "set", "g", "--ack", "remote")
	if out.code != 2 || !strings.Contains(out.stderr, "site remote") {
		t.Errorf("ack: remote of an Unprotected group: %d, %s", out.code, out.stderr)
	}
	named("local", "Replicating")
	w.connect()
	w.verify()
	s.drained("g", time.Minute)
}
