package promote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/node"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbdclient"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// sites are two of them, with a store at the second.
type sites struct {
	t     *testing.T
	dir   string
	store string
}

func newSites(t *testing.T) *sites {
	dir, err := os.MkdirTemp("/tmp", "pp-") // short: sockets are in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &sites{t: t, dir: dir, store: filepath.Join(dir, "bucket")}
	if err := os.Mkdir(s.store, 0o755); err != nil {
		t.Fatal(err)
	}
	return s
}

// conf is the configuration of a host at a site.
func (s *sites) conf(host, site string) *config.Agent {
	s.t.Helper()
	path := filepath.Join(s.dir, host+".yaml")
	text := fmt.Sprintf("name: %s\nsite: %s\nstate: %s/%s\nruntime: %s/run-%s\njournal:\n  targets:\n"+
		"  - {name: far, url: %q, site: busan}\n", host, site, s.dir, host, s.dir, host, "file://"+s.store)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	c, err := config.LoadAgent(path)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *sites) start(c *config.Agent) *node.Daemon {
	s.t.Helper()
	d, err := node.Start(s.t.Context(), c, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *sites) call(c *config.Agent, verb string, req any) {
	s.t.Helper()
	if err := api.Dial(c.Socket).Call(s.t.Context(), verb, req, new(json.RawMessage)); err != nil {
		s.t.Fatalf("%s: %v", verb, err)
	}
}

// write writes at an offset, flushed, and waits until the store has it.
func (s *sites) write(c *config.Agent, off int64, fill byte) {
	s.t.Helper()
	n := s.dial(c)
	defer n.Close()
	ctx := s.t.Context()
	if err := n.WriteAt(ctx, bytes.Repeat([]byte{fill}, 8192), off, 0); err != nil {
		s.t.Fatal(err)
	}
	if err := n.Flush(ctx); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sites) dial(c *config.Agent) *nbdclient.Conn {
	s.t.Helper()
	n, err := nbdclient.DialAddr(s.t.Context(), "unix", c.NBD.Unix, "v", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// wantAt holds a byte of the volume at each offset.
func (s *sites) wantAt(c *config.Agent, want map[int64]byte) {
	s.t.Helper()
	n := s.dial(c)
	defer n.Close()
	for off, fill := range want {
		b := make([]byte, 8192)
		if err := n.ReadAt(s.t.Context(), b, off); err != nil {
			s.t.Fatal(err)
		}
		if !bytes.Equal(b, bytes.Repeat([]byte{fill}, 8192)) {
			s.t.Errorf("at %d is %q, want %q", off, b[:1], fill)
		}
	}
}

// primary runs the first site with a volume, two writes, a bookmark, and one more; then it is lost.
func (s *sites) primary() *config.Agent {
	a := s.conf("host-a", "seoul")
	d := s.start(a)
	s.call(a, api.VerbGroupPut, api.GroupPut{Name: "g", Create: true})
	s.call(a, api.VerbVolumeCreate, api.VolumeCreate{Name: "v", Group: "g", SizeBytes: 1 << 20})
	s.write(a, 0, 'A')
	s.write(a, 65536, 'B')
	s.call(a, api.VerbBookmarkAdd, api.BookmarkAdd{Name: "good", Group: "g"})
	s.write(a, 0, 'X')
	s.drained(a)
	if err := d.Close(); err != nil {
		s.t.Fatal(err)
	}
	return a
}

// drained waits until the store has all.
func (s *sites) drained(c *config.Agent) {
	s.t.Helper()
	for {
		var st api.Status
		if err := api.Dial(c.Socket).Call(s.t.Context(), api.VerbStatus, struct{}{}, &st); err != nil {
			s.t.Fatal(err)
		}
		if g := st.Groups[0]; g.LastLSN > 0 && g.DurableLSN == g.LastLSN || g.State == "Unprotected" {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (s *sites) options(c *config.Agent) Options {
	return Options{Conf: c, Path: "b.yaml", Version: "test", Operator: "tester",
		Open: func(ctx context.Context, t config.Target) (objstore.Store, func(), error) {
			st, err := objstore.Open(ctx, t.URL, objstore.Options{})
			return st, func() {}, err
		},
		Confirm: func(*Report) error { return nil }, Tell: func(string) {},
		Stage:  func(string) (twin.Progress, func()) { return nil, func() {} },
		Logger: slog.New(slog.DiscardHandler)}
}

// TestForce: the volume goes on at the other site from the newest point, under the next epoch,
// and what is written there goes on in the same log. A run that was cut short behind any step
// is gone on with by the next, and one more changes nothing.
func TestForce(t *testing.T) {
	for _, cut := range []string{"", "fence", "journal", "create", "images", "keep", "commands", "agent"} {
		t.Run("cut behind "+cut, func(t *testing.T) {
			s := newSites(t)
			s.primary()
			b := s.conf("host-b", "busan")
			o := s.options(b)
			if cut != "" {
				o.step = func(name string) error {
					if name == cut {
						return errors.New("cut short")
					}
					return nil
				}
				if _, err := Force(t.Context(), o); err == nil {
					t.Fatal("it was not cut short")
				}
				if _, err := node.Start(t.Context(), b, "test", o.Logger); !fail.Is(err, fail.Refused) {
					t.Errorf("the agent starts over a half: %v", err)
				}
				o.step = nil
			}
			rep, err := Force(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if rep.Epoch != 2 || rep.FromSite != "seoul" || rep.Resumed != (cut != "") || len(rep.Groups) != 1 {
				t.Errorf("report %+v", rep)
			}
			if again, err := Force(t.Context(), o); err != nil || !again.Done {
				t.Errorf("once more: %+v, %v", again, err)
			}
			d := s.start(b)
			s.wantAt(b, map[int64]byte{0: 'X', 65536: 'B', 131072: 0})
			s.write(b, 131072, 'C')
			s.drained(b)
			s.wantLog(2, map[int64]byte{0: 'X', 65536: 'B', 131072: 'C'})
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// wantLog waits until the log's newest point has these bytes, in an epoch.
func (s *sites) wantLog(epoch uint64, want map[int64]byte) {
	s.t.Helper()
	st, err := objstore.Open(s.t.Context(), "file://"+s.store, objstore.Options{})
	if err != nil {
		s.t.Fatal(err)
	}
	defer st.Close()
	for range 500 {
		l, err := twin.Open(s.t.Context(), st, nil)
		if err != nil {
			s.t.Fatal(err)
		}
		p, err := l.PointOf(s.t.Context(), "v", "")
		got := make(content, 1<<20)
		if err == nil {
			_, err = l.Restore(s.t.Context(), p, got)
		}
		if err == nil && l.Epoch == epoch && got.has(want) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.t.Errorf("the log has no point of epoch %d with %v", epoch, want)
}

// content is a volume.
type content []byte

func (m content) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

func (m content) has(want map[int64]byte) bool {
	for off, fill := range want {
		if !bytes.Equal(m[off:off+8192], bytes.Repeat([]byte{fill}, 8192)) {
			return false
		}
	}
	return true
}

// TestForceBack: with --at the volume has the earlier point, and so has the log's newest one, as
// soon as what was written later is put back in it; the later points stay.
func TestForceBack(t *testing.T) {
	s := newSites(t)
	s.primary()
	b := s.conf("host-b", "busan")
	b.HydrateRate = 1 // what is put back is read through the image
	o := s.options(b)
	o.At = "good"
	rep, err := Force(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if g := rep.Groups[0]; g.LSN >= g.HeadLSN {
		t.Errorf("it did not go back: %+v", g)
	}
	d := s.start(b)
	s.wantAt(b, map[int64]byte{0: 'A', 65536: 'B'})
	s.write(b, 131072, 'C')
	s.wantLog(2, map[int64]byte{0: 'A', 65536: 'B', 131072: 'C'})
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestForceTwice: of two sites that take over at once exactly one has the journal, and the other
// says so and can start no agent.
func TestForceTwice(t *testing.T) {
	s := newSites(t)
	s.primary()
	b, c := s.options(s.conf("host-b", "busan")), s.options(s.conf("host-c", "daegu"))
	b.Confirm = func(*Report) error { // the other one is faster, between the look and the fence
		_, err := Force(t.Context(), c)
		return err
	}
	if _, err := Force(t.Context(), b); !fail.Is(err, fail.Fenced) || fail.HintOf(err) == "" {
		t.Errorf("the second one: %v, hint %q", err, fail.HintOf(err))
	}
	if _, err := node.Start(t.Context(), b.Conf, "test", b.Logger); !fail.Is(err, fail.Refused) {
		t.Errorf("its agent starts: %v", err)
	}
}

// TestForceTwoLogs: of two sites with a target each, both of which have all of the log, one has the
// journal; and one that comes later takes the log of the higher epoch, under the next.
func TestForceTwoLogs(t *testing.T) {
	s := newSites(t)
	second := filepath.Join(s.dir, "second")
	if err := os.Mkdir(second, 0o755); err != nil {
		t.Fatal(err)
	}
	options := func(host, site string) Options {
		o := s.options(s.conf(host, site))
		more := o.Conf.Journal.Targets[0]
		more.Name, more.Site, more.URL = "second", "daegu", "file://"+second
		o.Conf.Journal.Targets = append(o.Conf.Journal.Targets, more)
		return o
	}
	a := options("host-a", "seoul").Conf
	d := s.start(a)
	s.call(a, api.VerbGroupPut, api.GroupPut{Name: "g", Create: true})
	s.call(a, api.VerbVolumeCreate, api.VolumeCreate{Name: "v", Group: "g", SizeBytes: 1 << 20})
	s.write(a, 0, 'A')
	s.drained(a)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	b, c := options("host-b", "busan"), options("host-c", "daegu")
	b.Confirm = func(*Report) error { // the other one is faster, between the look and the fence
		rep, err := Force(t.Context(), c)
		if err == nil && rep.Target != "second" {
			t.Errorf("the faster one took %s", rep.Target)
		}
		return err
	}
	for range 2 { // a repeat is no luckier
		if rep, err := Force(t.Context(), b); !fail.Is(err, fail.Fenced) || fail.HintOf(err) == "" {
			t.Fatalf("the second one: %+v, %v", rep, err)
		}
	}
	if _, err := node.Start(t.Context(), b.Conf, "test", b.Logger); !fail.Is(err, fail.Refused) {
		t.Errorf("its agent starts: %v", err)
	}
	late := options("host-d", "busan")
	rep, err := Force(t.Context(), late)
	if err != nil {
		t.Fatal(err)
	}
	if rep.Epoch != 3 { // the second one has fenced its log, and gave up
		t.Errorf("a later one: %+v", rep)
	}
	dd := s.start(late.Conf)
	defer dd.Close()
	s.wantAt(late.Conf, map[int64]byte{0: 'A'})
}

// TestForceInTheDark: where no target is at this site, it is not known which one is lost before a log
// was read. One that takes connections and never answers is not waited for once that is known.
func TestForceInTheDark(t *testing.T) {
	s := newSites(t)
	s.primary()
	dark, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer dark.Close()
	c := s.options(s.conf("host-c", "daegu"))
	c.Conf.Journal.Targets = append([]config.Target{{Name: "lost", Site: "seoul", URL: "s3://bucket/prefix",
		Endpoint: "http://" + dark.Addr().String()}}, c.Conf.Journal.Targets...)
	t.Setenv("AWS_ACCESS_KEY_ID", "key")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	c.Open = func(ctx context.Context, t config.Target) (objstore.Store, func(), error) {
		st, err := objstore.Open(ctx, t.URL, objstore.Options{Endpoint: t.Endpoint, Timeout: time.Hour})
		return st, func() {}, err
	}
	rep, err := Force(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if rep.Target != "far" || len(rep.Others) != 1 || rep.Others[0] != (Other{Target: "lost", Site: "seoul",
		State: OtherLost}) {
		t.Errorf("report %+v", rep)
	}
}

// TestForceRefused: what is not confirmed, or is a host with a state of its own, changes nothing.
func TestForceRefused(t *testing.T) {
	s := newSites(t)
	a := s.primary()
	if _, err := Force(t.Context(), s.options(a)); !fail.Is(err, fail.Exists) {
		t.Errorf("over an agent: %v", err)
	}
	b := s.options(s.conf("host-b", "busan"))
	b.Confirm = func(*Report) error { return fail.New(fail.Refused, "", "", "no") }
	if _, err := Force(t.Context(), b); !fail.Is(err, fail.Refused) {
		t.Errorf("not confirmed: %v", err)
	}
	b.DryRun = true
	if rep, err := Force(t.Context(), b); err != nil || rep.Epoch != 2 || rep.Name == "" {
		t.Errorf("dry run: %+v, %v", rep, err)
	}
	s.wantLog(1, map[int64]byte{0: 'X'})
	b.Target, b.DryRun = "nowhere", false
	if _, err := Force(t.Context(), b); !fail.Is(err, fail.NotFound) {
		t.Errorf("a target that is none: %v", err)
	}
}
