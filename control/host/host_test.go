package host

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbdclient"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/gc"
	"github.com/pollux-dr/pollux/replicator/twin/image"
)

// sites are two of them, with a host each. Where both have a bucket, each follows its own.
type sites struct {
	t     *testing.T
	dir   string
	confs map[string]*config.Agent // by site
	hosts map[string]*Host
}

func newSites(t *testing.T, buckets ...string) *sites {
	dir, err := os.MkdirTemp("/tmp", "ph-") // short: sockets are in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &sites{t: t, dir: dir, confs: map[string]*config.Agent{}, hosts: map[string]*Host{}}
	targets := ""
	for _, site := range buckets {
		if err := os.Mkdir(filepath.Join(dir, "bucket-"+site), 0o755); err != nil {
			t.Fatal(err)
		}
		targets += fmt.Sprintf("  - {name: at-%[1]s, url: 'file://%[2]s/bucket-%[1]s', site: %[1]s}\n", site, dir)
	}
	for _, site := range []string{"seoul", "busan"} {
		follows := buckets[0]
		if len(buckets) > 1 { // each its own
			follows = site
		}
		path := filepath.Join(dir, site+".yaml")
		text := fmt.Sprintf("name: host-%[1]s\nsite: %[1]s\nstate: %[2]s/%[1]s\nruntime: %[2]s/run-%[1]s\n"+
			"memory: 16MiB\njournal:\n  targets:\n%[3]sstandby: {target: at-%[4]s}\n", site, dir, targets, follows)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if s.confs[site], err = config.LoadAgent(path); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *sites) start(site string, standby bool) {
	s.t.Helper()
	h, err := Start(s.t.Context(), s.confs[site], Options{Version: "test", Logger: slog.New(slog.DiscardHandler),
		Standby: standby})
	if err != nil {
		s.t.Fatal(fail.Explain(err))
	}
	s.hosts[site] = h
}

func (s *sites) stop(site string) {
	s.t.Helper()
	if err := s.hosts[site].Close(); err != nil {
		s.t.Error(err)
	}
}

func (s *sites) try(site, verb string, req, resp any) error {
	if resp == nil {
		resp = new(json.RawMessage)
	}
	return api.Dial(s.confs[site].Socket).Call(s.t.Context(), verb, req, resp)
}

func (s *sites) call(site, verb string, req, resp any) {
	s.t.Helper()
	if err := s.try(site, verb, req, resp); err != nil {
		s.t.Fatalf("%s: %s (%s)", verb, fail.Explain(err), fail.HintOf(err))
	}
}

// eventually tries until it is so, or two minutes have passed.
func (s *sites) eventually(what string, ok func() error) {
	s.t.Helper()
	var err error
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	s.t.Fatalf("%s: %v", what, err)
}

func (s *sites) dial(site, volume string) (*nbdclient.Conn, error) {
	return nbdclient.DialAddr(s.t.Context(), "unix", s.confs[site].NBD.Unix, volume, nil)
}

func (s *sites) write(site, volume string, off int64, fill byte) {
	s.t.Helper()
	n, err := s.dial(site, volume)
	if err != nil {
		s.t.Fatal(err)
	}
	defer n.Close()
	err = n.WriteAt(s.t.Context(), bytes.Repeat([]byte{fill}, 8192), off, 0)
	if err == nil {
		err = n.Flush(s.t.Context())
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// serves waits until a site serves a volume, and holds what it has against what is wanted.
func (s *sites) serves(site, volume string, want map[int64]byte) {
	s.t.Helper()
	var n *nbdclient.Conn
	s.eventually(site+" serves", func() (err error) {
		n, err = s.dial(site, volume)
		return err
	})
	defer n.Close()
	for off, fill := range want {
		b := make([]byte, 8192)
		if err := n.ReadAt(s.t.Context(), b, off); err != nil {
			s.t.Fatal(err)
		}
		if !bytes.Equal(b, bytes.Repeat([]byte{fill}, 8192)) {
			s.t.Errorf("volume %s at %s has %q at %d, want %q", volume, site, b[:1], off, fill)
		}
	}
}

func (s *sites) status(site string) (st api.Status, err error) {
	err = s.try(site, api.VerbStatus, struct{}{}, &st)
	return st, err
}

// follows waits until a site's host is a standby that has all.
func (s *sites) follows(site string) {
	s.t.Helper()
	s.eventually(site+" follows", func() error {
		st, err := s.status(site)
		if err != nil || st.Standby == nil {
			return errors.Join(err, errors.New("it is no standby"))
		}
		for _, g := range st.Standby.Groups {
			if g.Name == "g" && g.State == "following" && len(g.Volumes) == 2 {
				return nil
			}
		}
		return fmt.Errorf("%+v", st.Standby)
	})
}

// settled waits until all groups of a site replicate, as far as there is another site's bucket.
func (s *sites) settled(site string) (st api.Status) {
	s.t.Helper()
	s.eventually(site+" replicates", func() (err error) {
		if st, err = s.status(site); err != nil {
			return err
		}
		for _, g := range st.Groups {
			if g.State != "Replicating" && g.State != "Unprotected" {
				return fmt.Errorf("group %s is %s: %s", g.Name, g.State, g.Reason)
			}
		}
		return nil
	})
	return st
}

func (s *sites) handOver(from, to string) {
	s.t.Helper()
	var out api.HandOverReport
	s.call(from, api.VerbHandOver, api.HandOver{To: to}, &out)
	if out.Outcome != "taken up" {
		s.t.Fatalf("%+v", out)
	}
	s.t.Logf("%s to %s: I/O waited for %.3f s", from, to, out.HeldSeconds)
}

func (s *sites) bucket(site string) objstore.Store {
	s.t.Helper()
	store, err := objstore.Open(s.t.Context(), "file://"+s.dir+"/bucket-"+site, objstore.Options{})
	if err != nil {
		s.t.Fatal(err)
	}
	return store
}

// restored is what a point of a volume has at an offset, from the bucket alone.
func (s *sites) restored(site, volume, at string, off int64) byte {
	s.t.Helper()
	l, err := twin.Open(s.t.Context(), s.bucket(site), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	p, err := l.PointOf(s.t.Context(), volume, at)
	if err != nil {
		s.t.Fatal(err)
	}
	path := filepath.Join(s.t.TempDir(), "r.img")
	to, err := image.Inspect(path, p.Volume.SizeBytes)
	if err == nil {
		_, err = image.Restore(s.t.Context(), l, p, to, image.Options{})
	}
	b, rerr := os.ReadFile(path)
	if err := errors.Join(err, rerr); err != nil {
		s.t.Fatal(err)
	}
	return b[off]
}

func (s *sites) bookmarks(site string) (names []string) {
	s.t.Helper()
	var all []api.Bookmark
	s.call(site, api.VerbBookmarkList, api.List{}, &all)
	for _, b := range all {
		names = append(names, b.Name)
	}
	return names
}

func (s *sites) answers(site string) (n int) {
	s.t.Helper()
	err := s.bucket(site).List(s.t.Context(), objlog.ReadyPrefix, "", func(objstore.Info) error {
		n++
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// begin has both hosts run, the first with two volumes that the second follows.
func (s *sites) begin() {
	s.t.Helper()
	s.start("seoul", false)
	s.call("seoul", api.VerbGroupPut, api.GroupPut{Name: "g", Create: true}, nil)
	for _, v := range []string{"v", "w"} {
		s.call("seoul", api.VerbVolumeCreate, api.VolumeCreate{Name: v, Group: "g", SizeBytes: 1 << 20}, nil)
		s.write("seoul", v, 0, 'A')
	}
	s.start("busan", true)
	s.follows("busan")
}

// TestRollBack: after a hand-over the former seat follows by itself. A rollback brings the volumes to
// the point of the hand-over, there, and what was written since can be restored.
func TestRollBack(t *testing.T) {
	s := newSites(t, "busan") // and so nothing outside the new seat's site has the log
	s.begin()
	s.write("seoul", "v", 65536, 'B')
	s.handOver("seoul", "busan")
	s.serves("busan", "v", map[int64]byte{0: 'A', 65536: 'B'})
	s.follows("seoul")
	if entries, _ := os.ReadDir(filepath.Join(s.confs["seoul"].State, "branches")); len(entries) > 0 {
		t.Errorf("a branch is left: %v", entries)
	}
	s.stop("seoul") // asked to be an agent, it is the standby that it was
	s.start("seoul", false)
	s.follows("seoul")
	if names := s.bookmarks("busan"); !slices.Equal(names, []string{"handover-2"}) {
		t.Errorf("bookmarks %v", names)
	}
	s.write("busan", "v", 0, 'X')
	s.write("busan", "v", 131072, 'Y')
	st := s.settled("busan")
	if b := st.Journal.WayBack; b == nil || b.Site != "seoul" || len(b.Groups) != 1 || b.Groups[0].Writes == 0 {
		t.Errorf("the way back is %+v", b)
	}
	if rep, err := gc.Collect(t.Context(), s.bucket("busan"), gc.CollectOptions{}); err != nil ||
		s.answers("busan") > 0 {
		t.Errorf("%+v, %v: %d answers", rep, err, s.answers("busan"))
	}
	var found api.RollBackReport
	s.call("busan", api.VerbRollBack, api.RollBack{DryRun: true}, &found)
	if len(found.Groups) != 1 || found.Groups[0].Bytes != 2*8192 || found.Epoch != 2 || found.To != "seoul" {
		t.Errorf("would undo %+v", found)
	}
	if err := s.try("busan", api.VerbRollBack, api.RollBack{}, nil); !fail.Is(err, fail.Refused) {
		t.Errorf("unconfirmed: %v", err)
	}
	s.call("busan", api.VerbRollBack, api.RollBack{Journal: found.Journal, Epoch: 2}, &found)
	s.serves("seoul", "v", map[int64]byte{0: 'A', 65536: 'B', 131072: 0})
	s.serves("seoul", "w", map[int64]byte{0: 'A'})
	if st = s.settled("seoul"); st.Journal.WayBack != nil || st.Journal.Epoch != 3 {
		t.Errorf("the journal is at %+v", st.Journal)
	}
	if names := s.bookmarks("seoul"); !slices.Equal(names, []string{"before-rollback-3"}) {
		t.Errorf("bookmarks %v", names)
	}
	s.write("seoul", "v", 196608, 'Z')
	s.settled("seoul")
	s.follows("busan")
	if _, err := gc.Collect(t.Context(), s.bucket("busan"), gc.CollectOptions{}); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		at   string
		off  int64
		want byte
	}{{"before-rollback-3", 0, 'X'}, {"before-rollback-3", 131072, 'Y'}, {"", 0, 'A'}, {"", 131072, 0},
		{"", 196608, 'Z'}} {
		if got := s.restored("busan", "v", c.at, c.off); got != c.want {
			t.Errorf("at %q, offset %d: %q, want %q", c.at, c.off, got, c.want)
		}
	}
	s.stop("seoul")
	s.stop("busan")
}

// repeats asks a former seat again for the hand-over that it has carried out: it says the same.
func (s *sites) repeats(site, to string, first *api.HandOverReport) {
	s.t.Helper()
	for _, dry := range []bool{false, true} {
		var again api.HandOverReport
		s.call(site, api.VerbHandOver, api.HandOver{To: to, DryRun: dry}, &again)
		if again != *first {
			s.t.Errorf("asked again, it says %+v, and said %+v", again, *first)
		}
	}
}

// TestRepeated: who asks again for a hand-over that is done hears how it went, from the superseded agent,
// from the standby that the host becomes, and after a restart of that. Whatever else only the seat does,
// the standby says where that is.
func TestRepeated(t *testing.T) {
	s := newSites(t, "busan", "seoul")
	s.begin()
	var first api.HandOverReport
	s.call("seoul", api.VerbHandOver, api.HandOver{To: "busan"}, &first)
	if first.Outcome != "taken up" || first.HeldSeconds == 0 || first.Host != "host-busan" || first.Index == 0 {
		t.Errorf("%+v", first)
	}
	s.eventually("it answers again", func() error { // the socket changes hands at some time
		return s.try("seoul", api.VerbHandOver, api.HandOver{To: "busan"}, nil)
	})
	s.follows("seoul")
	s.repeats("seoul", "busan", &first)
	s.stop("seoul")
	s.start("seoul", false)
	s.repeats("seoul", "busan", &first)
	s.follows("seoul")
	for verb, req := range map[string]any{api.VerbHandOver: api.HandOver{To: "daegu"}, api.VerbCommit: api.Commit{},
		api.VerbRollBack: api.RollBack{DryRun: true}} {
		err := s.try("seoul", verb, req, nil)
		if !fail.Is(err, fail.Refused) || !strings.Contains(err.Error(), "seat at busan under epoch 2") ||
			!strings.Contains(fail.HintOf(err), "host-busan: pollux failover --") {
			t.Errorf("%s at a standby: %v (%s)", verb, err, fail.HintOf(err))
		}
	}
	record := filepath.Join(s.confs["seoul"].State, "handed-over.json") // of an earlier release there is none
	if err := os.Remove(record); err != nil {
		t.Fatal(err)
	}
	var again api.HandOverReport
	s.call("seoul", api.VerbHandOver, api.HandOver{To: "busan"}, &again)
	if again.Outcome != "taken up" || again.Host != "host-busan" || again.Index != first.Index || again.Epoch != 1 {
		t.Errorf("from the log: %+v; it was %+v", again, first)
	}
	s.settled("busan")
	s.handOver("busan", "seoul")
	s.serves("seoul", "v", map[int64]byte{0: 'A'})
	s.eventually("the seat says so", func() error { // the socket changes hands at some time
		if err := s.try("seoul", api.VerbHandOver, api.HandOver{To: "seoul"}, nil); !fail.Is(err, fail.Exists) {
			return fmt.Errorf("at the seat: %v", err)
		}
		return nil
	})
	s.follows("busan")
	err := s.try("busan", api.VerbHandOver, api.HandOver{To: "busan"}, nil)
	if !fail.Is(err, fail.Refused) || !strings.Contains(fail.HintOf(err), "host-seoul: pollux failover --planned --to "+
		"busan; or --rollback") {
		t.Errorf("there: %v (%s)", err, fail.HintOf(err))
	}
	s.stop("seoul")
	s.stop("busan")
}

// TestCommit: committed, there is no way back but another hand-over, which takes all along.
func TestCommit(t *testing.T) {
	s := newSites(t, "busan", "seoul")
	s.begin()
	var out api.CommitReport
	if s.call("seoul", api.VerbCommit, api.Commit{}, &out); out.Outcome != "nothing to commit" {
		t.Errorf("at a seat that never moved: %+v", out)
	}
	s.handOver("seoul", "busan")
	s.serves("busan", "v", map[int64]byte{0: 'A'})
	s.write("busan", "v", 0, 'X')
	s.settled("busan")
	if s.call("busan", api.VerbCommit, api.Commit{DryRun: true}, &out); out.Outcome != "dry run" {
		t.Errorf("%+v", out)
	}
	s.call("busan", api.VerbCommit, api.Commit{By: "kim"}, &out)
	if names := s.bookmarks("busan"); out.Outcome != "committed" || out.AnswersDeleted != 1 || len(names) > 0 {
		t.Errorf("%+v, bookmarks %v", out, names)
	}
	s.call("busan", api.VerbCommit, api.Commit{By: "lee"}, &out)
	if out.Outcome != "nothing to commit" || out.Who != "kim" {
		t.Errorf("committed twice: %+v", out)
	}
	err := s.try("busan", api.VerbRollBack, api.RollBack{DryRun: true}, nil)
	if !fail.Is(err, fail.Refused) || !strings.Contains(fail.HintOf(err), "--planned --to seoul") {
		t.Errorf("rolled back after the commit: %v, %s", err, fail.HintOf(err))
	}
	s.follows("seoul")
	s.handOver("busan", "seoul")
	s.serves("seoul", "v", map[int64]byte{0: 'X'})
	if st := s.settled("seoul"); st.Journal.WayBack == nil || st.Journal.WayBack.Epoch != 3 {
		t.Errorf("the way back is %+v", st.Journal.WayBack)
	}
	s.follows("busan")
	s.stop("seoul")
	s.stop("busan")
}
