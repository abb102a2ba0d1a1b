package failback

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/promote"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// TestTargetThatWasBehind: the log that is followed ended before the point at which the journal went
// on, when the new seat came to it. The fence there stands before that point, and what the former seat
// had written up to it was filled in behind the fence: it is no part of the branch.
func TestTargetThatWasBehind(t *testing.T) {
	s := newSites(t)
	near := filepath.Join(s.dir, "near")
	s.must(os.Mkdir(near, 0o755))
	conf := func(host, site string) *config.Agent {
		c := s.conf(host, site)
		second := c.Journal.Targets[0]
		second.Name, second.Site, second.URL = "near", "seoul", "file://"+near
		c.Journal.Targets = append(c.Journal.Targets, second)
		c.Standby.Target = "near"
		return c
	}
	a, b := conf("host-a", "seoul"), conf("host-b", "busan")
	d := s.start(a)
	s.call(a, api.VerbGroupPut, api.GroupPut{Name: "g", Create: true})
	s.createVolume(a, "v")
	for block := range int64(20) {
		s.write(a, "v", block)
	}
	s.inLog()
	s.nearHas(near)
	s.must(os.Rename(near, near+".away"))
	for block := range int64(20) {
		s.write(a, "v", 20+2*block)
	}
	s.inLog() // of the other one
	parted := bytes.Clone(s.images["v"])
	s.must(os.Rename(s.store(), s.store()+".away"))
	s.write(a, "v", 0)
	s.write(a, "v", 100)
	lone := s.snapshot()
	s.must(d.Close())
	s.must(os.Rename(s.store()+".away", s.store()))
	s.images["v"] = bytes.Clone(parted)
	o := s.promotion(b)
	o.Target = "far"
	_, err := promote.Force(t.Context(), o)
	s.must(err)
	s.must(os.Rename(near+".away", near))
	story := &story{sites: s, a: a, b: b, db: s.start(b)}
	t.Cleanup(story.closeB)
	s.write(b, "v", 3)
	s.nearHas(near)

	rep, err := Run(t.Context(), s.options(a))
	s.must(err)
	if rep.Successor.Target != "near" || rep.Successor.Site != "busan" {
		t.Errorf("%+v", rep.Successor)
	}
	g := rep.Groups[0]
	if g.PointLSN != 40 || g.BaseLSN != 40 || g.LastLSN != 42 || rep.DivergentBytes != 2*blockBytes {
		t.Errorf("%+v, %d divergent bytes; want LSN 40, and two blocks", g, rep.DivergentBytes)
	}
	s.wantBackings(a, map[string][]byte{"v": parted})
	story.wantBranch(a, rep.Branch, lone)
	s.follow(a)
}

// nearHas waits until the log in a directory holds what the volume does.
func (s *sites) nearHas(dir string) {
	s.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		st, err := objstore.Open(s.t.Context(), "file://"+dir, objstore.Options{ReadOnly: true})
		s.must(err)
		got := make(content, volumeBytes)
		l, err := twin.Open(s.t.Context(), st, nil)
		if err == nil {
			var p twin.Point
			if p, err = l.PointOf(s.t.Context(), "v", ""); err == nil {
				_, err = l.Restore(s.t.Context(), p, got)
			}
		}
		s.must(st.Close())
		if err == nil && bytes.Equal(got, s.images["v"]) {
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("%s does not get what the seat has: %v", dir, err)
		}
	}
}
