package standby

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/node"
	"github.com/pollux-dr/pollux/control/promote"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbdclient"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// pair is a primary at one site, and a standby at the other, where the bucket is.
type pair struct {
	t   *testing.T
	dir string
	a   *config.Agent
	b   *config.Agent
}

// volumes of the primary: cold is of a group that the standby does not follow.
var volumes = map[string]string{"v": "g", "w": "g", "cold": "other"}

func newPair(t *testing.T) *pair {
	dir, err := os.MkdirTemp("/tmp", "ps-") // short: sockets are in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Mkdir(filepath.Join(dir, "bucket"), 0o755); err != nil {
		t.Fatal(err)
	}
	p := &pair{t: t, dir: dir}
	p.a, p.b = p.conf("a", "seoul", ""), p.conf("b", "busan", "standby: {groups: [g]}\n")
	return p
}

func (p *pair) conf(host, site, more string) *config.Agent {
	p.t.Helper()
	path := filepath.Join(p.dir, host+".yaml")
	text := fmt.Sprintf("name: host-%[1]s\nsite: %[2]s\nstate: %[3]s/%[1]s\nruntime: %[3]s/run-%[1]s\njournal:\n"+
		"  targets:\n  - {name: far, url: 'file://%[3]s/bucket', site: busan}\n%[4]s", host, site, p.dir, more)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	c, err := config.LoadAgent(path)
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

func (p *pair) call(c *config.Agent, verb string, req, resp any) {
	p.t.Helper()
	if err := api.Dial(c.Socket).Call(p.t.Context(), verb, req, resp); err != nil {
		p.t.Fatalf("%s: %s", verb, fail.Explain(err))
	}
}

func (p *pair) write(c *config.Agent, volume string, off int64, fill byte) {
	p.t.Helper()
	n := p.dial(c, volume)
	defer n.Close()
	err := n.WriteAt(p.t.Context(), bytes.Repeat([]byte{fill}, 8192), off, 0)
	if err == nil {
		err = n.Flush(p.t.Context())
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *pair) dial(c *config.Agent, volume string) *nbdclient.Conn {
	p.t.Helper()
	n, err := nbdclient.DialAddr(p.t.Context(), "unix", c.NBD.Unix, volume, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

// want holds bytes of a volume, by offset.
func (p *pair) want(c *config.Agent, volume string, want map[int64]byte) {
	p.t.Helper()
	n := p.dial(c, volume)
	defer n.Close()
	for off, fill := range want {
		b := make([]byte, 8192)
		if err := n.ReadAt(p.t.Context(), b, off); err != nil {
			p.t.Fatal(err)
		}
		if !bytes.Equal(b, bytes.Repeat([]byte{fill}, 8192)) {
			p.t.Errorf("volume %s at %d is %q, want %q", volume, off, b[:1], fill)
		}
	}
}

// eventually tries until it is so, or half a minute has passed.
func (p *pair) eventually(what string, ok func() error) {
	p.t.Helper()
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	p.t.Fatalf("%s: %v", what, err)
}

// drained waits until the store has all.
func (p *pair) drained(c *config.Agent) {
	p.t.Helper()
	p.eventually("the store has all", func() error {
		var st api.Status
		p.call(c, api.VerbStatus, struct{}{}, &st)
		for _, g := range st.Groups {
			if g.DurableLSN < g.LastLSN && g.State != "Unprotected" { // there is no other site then
				return fmt.Errorf("group %s is at LSN %d of %d", g.Name, g.DurableLSN, g.LastLSN)
			}
		}
		return nil
	})
}

// start runs the standby.
func (p *pair) start(step func(string) error) *Daemon {
	p.t.Helper()
	d, err := Start(p.t.Context(), p.b, Options{Version: "test", Logger: slog.New(slog.DiscardHandler), step: step})
	if err != nil {
		p.t.Fatal(fail.Explain(err))
	}
	return d
}

func (p *pair) close(d io.Closer) {
	p.t.Helper()
	if err := d.Close(); err != nil {
		p.t.Error(err)
	}
}

// seat starts the primary, with volumes of group g, each of which begins with A.
func (p *pair) seat(volumes ...string) *node.Daemon {
	p.t.Helper()
	d, err := node.Start(p.t.Context(), p.a, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		p.t.Fatal(err)
	}
	none := new(json.RawMessage)
	p.call(p.a, api.VerbGroupPut, api.GroupPut{Name: "g", Create: true}, none)
	for _, v := range volumes {
		p.call(p.a, api.VerbVolumeCreate, api.VolumeCreate{Name: v, Group: "g", SizeBytes: 1 << 20}, none)
		p.write(p.a, v, 0, 'A')
	}
	return d
}

// lost runs the primary with the standby behind it, and loses it: the standby has part of what is
// in the store, and the store has all.
func (p *pair) lost() {
	p.t.Helper()
	first, err := node.Start(p.t.Context(), p.a, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		p.t.Fatal(err)
	}
	none := new(json.RawMessage)
	for _, g := range []string{"g", "other"} {
		p.call(p.a, api.VerbGroupPut, api.GroupPut{Name: g, Create: true}, none)
	}
	for v, g := range volumes {
		p.call(p.a, api.VerbVolumeCreate, api.VolumeCreate{Name: v, Group: g, SizeBytes: 1 << 20}, none)
	}
	for v := range volumes {
		p.write(p.a, v, 0, 'A')
		p.write(p.a, v, 65536, 'B')
	}
	for _, g := range []string{"g", "other"} {
		p.call(p.a, api.VerbBookmarkAdd, api.BookmarkAdd{Name: "good", Group: g}, none)
	}
	p.drained(p.a)
	d := p.start(nil)
	p.eventually("the standby follows", func() error {
		for _, g := range d.engine.Status().Groups {
			if g.Name == "g" && g.State == "following" && len(g.Volumes) == 2 {
				return nil
			}
		}
		return fmt.Errorf("%+v", d.engine.Status())
	})
	p.close(d)
	for v := range volumes {
		p.write(p.a, v, 0, 'X')
	}
	p.drained(p.a)
	p.close(first)
}

// failover does what the CLI does.
func (p *pair) failover(req api.Failover) (*promote.Report, error) {
	p.t.Helper()
	call := func() (*promote.Report, error) {
		var body json.RawMessage
		if err := api.Dial(p.b.Socket).Call(p.t.Context(), api.VerbFailover, req, &body); err != nil {
			return nil, err
		}
		rep := &promote.Report{}
		return rep, json.Unmarshal(body, rep)
	}
	req.DryRun = true
	found, err := call()
	if err != nil {
		return nil, err
	}
	req.DryRun, req.Journal, req.Epoch = false, found.Name, found.Epoch
	return call()
}

// served holds what the new site serves against what was written, writes there, and holds the log
// against that.
func (p *pair) served(rep *promote.Report) {
	p.t.Helper()
	if rep.Epoch != 2 || rep.FromSite != "seoul" || rep.RTOSeconds <= 0 {
		p.t.Errorf("report %+v", rep)
	}
	for _, v := range rep.Volumes {
		if v.Warm != (volumes[v.Name] == "g") {
			p.t.Errorf("volume %s: warm %v, was %s", v.Name, v.Warm, v.Was)
		}
	}
	p.goesOn(map[int64]byte{0: 'X', 65536: 'B', 131072: 0})
}

func (p *pair) goesOn(want map[int64]byte) {
	p.t.Helper()
	for v := range volumes {
		p.want(p.b, v, want)
		p.write(p.b, v, 131072, 'C')
	}
	want[131072] = 'C'
	p.drained(p.b)
	for v := range volumes {
		p.eventually("the log has it, too", func() error { return p.inLog(v, want) })
	}
}

// inLog holds the newest point of a volume against bytes.
func (p *pair) inLog(volume string, want map[int64]byte) error {
	ctx := context.Background()
	st, err := objstore.Open(ctx, "file://"+p.dir+"/bucket", objstore.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer st.Close()
	l, err := twin.Open(ctx, st, nil)
	if err != nil {
		return err
	}
	at, err := l.PointOf(ctx, volume, "")
	if err != nil {
		return err
	}
	got := make(content, 1<<20)
	if _, err := l.Restore(ctx, at, got); err != nil {
		return err
	}
	for off, fill := range want {
		if !bytes.Equal(got[off:off+8192], bytes.Repeat([]byte{fill}, 8192)) {
			return fmt.Errorf("%s at %d is %q", volume, off, got[off:off+1])
		}
	}
	return nil
}

// content is a volume.
type content []byte

func (m content) WriteAt(b []byte, off int64) (int, error) { return copy(m[off:], b), nil }

// steps are those of a warm failover at which it can be cut.
var steps = []string{"fence", "journal", "caught up", "warm", "images", "commands", "agent"}

var errStep = errors.New("cut short")

// TestWarm: a running standby becomes the agent in its own process, and is the agent at the next
// start; once more changes nothing.
func TestWarm(t *testing.T) {
	p := newPair(t)
	p.lost()
	d := p.start(nil)
	rep, err := p.failover(api.Failover{By: "tester"})
	if err != nil {
		t.Fatal(fail.Explain(err))
	}
	t.Logf("RPO %.3f s, RTO %.3f s", rep.RPOSeconds, rep.RTOSeconds)
	p.served(rep)
	if again, err := promote.DoneAt(p.b); err != nil || !again.Done || again.Epoch != 2 {
		t.Errorf("once more: %+v, %v", again, err)
	}
	if _, err := os.Stat(promote.StandbyDir(p.b.State)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what the standby knew is still there: %v", err)
	}
	p.close(d)
	d = p.start(nil)
	p.want(p.b, "v", map[int64]byte{0: 'X', 131072: 'C'})
	p.close(d)
}

// TestWarmCut: cut short behind any step, it is gone on with by a repeat of the verb to the same
// daemon, and by the daemon's next start.
func TestWarmCut(t *testing.T) {
	for _, cut := range steps {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restart %v", cut, restart), func(t *testing.T) {
				t.Parallel()
				p := newPair(t)
				p.lost()
				cutting := true
				d := p.start(func(step string) error {
					if cutting && step == cut {
						return errStep
					}
					return nil
				})
				if _, err := p.failover(api.Failover{}); err == nil {
					t.Fatal("it was not cut short")
				}
				cutting = false
				if st := d.status(); !st.Promoting || st.Error == "" {
					t.Errorf("status %+v", st)
				}
				if !restart {
					rep, err := p.failover(api.Failover{})
					if err != nil {
						t.Fatal(fail.Explain(err))
					}
					p.served(rep)
					p.close(d)
					return
				}
				p.close(d)
				d = p.start(nil)
				p.eventually("it goes on by itself", func() error {
					if !d.isAgent() {
						return fmt.Errorf("%+v", d.status())
					}
					return nil
				})
				p.goesOn(map[int64]byte{0: 'X', 65536: 'B', 131072: 0})
				p.close(d)
			})
		}
	}
}

// noFence is a store that takes nothing.
type noFence struct{ objstore.Store }

func (noFence) Create(context.Context, string, []byte) error { return errStep }

// TestWarmBegun: a failover that was decided, and has fenced nothing, is not gone on with by itself:
// the standby follows, says so, and does it when it is told to. What was not confirmed is not begun.
func TestWarmBegun(t *testing.T) {
	p := newPair(t)
	p.lost()
	o := p.options()
	o.Open = func(ctx context.Context, c config.Target) (objstore.Store, func(), error) {
		st, err := objstore.Open(ctx, c.URL, objstore.Options{})
		return noFence{st}, func() {}, err
	}
	if _, err := promote.Force(t.Context(), o); !errors.Is(err, errStep) {
		t.Fatal(err)
	}
	d := p.start(nil)
	p.eventually("it follows", func() error {
		for _, g := range d.engine.Status().Groups {
			if g.State == "following" && g.LagSeconds == 0 {
				return nil
			}
		}
		return fmt.Errorf("%+v", d.engine.Status())
	})
	if st := d.status(); !st.Promoting || !strings.Contains(st.Error, "has not fenced") {
		t.Errorf("status %+v", st)
	}
	rep, err := p.failover(api.Failover{})
	if err != nil {
		t.Fatal(fail.Explain(err))
	}
	p.served(rep)
	p.close(d)
}

// TestNotConfirmed: what was not confirmed is not begun.
func TestNotConfirmed(t *testing.T) {
	p := newPair(t)
	p.lost()
	d := p.start(nil)
	_, err := service{d}.Failover(t.Context(), api.Failover{Journal: "another", Epoch: 2})
	if !fail.Is(err, fail.Refused) || d.status().Promoting {
		t.Errorf("%v, %+v", err, d.status())
	}
	if stage, err := promote.StageOf(p.b.State); err != nil || stage != promote.None {
		t.Errorf("%v, %v", stage, err)
	}
	p.close(d)
}

// TestWarmEnded: the images of a standby that does not run are taken by the verb itself.
func TestWarmEnded(t *testing.T) {
	for _, cut := range append([]string{""}, steps...) {
		t.Run(cut, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			p.lost()
			o := p.options()
			if cut != "" {
				o.Step = func(step string) error {
					if step == cut {
						return errStep
					}
					return nil
				}
				if _, err := promote.Force(t.Context(), o); !errors.Is(err, errStep) {
					t.Fatalf("it was not cut short: %v", err)
				}
				o.Step = nil
			}
			rep, err := promote.Force(t.Context(), o)
			if err != nil {
				t.Fatal(fail.Explain(err))
			}
			d := p.start(nil) // the standby's unit, restarted
			rep.RTOSeconds = 1
			p.served(rep)
			p.close(d)
		})
	}
}

func (p *pair) options() promote.Options {
	return promote.Options{Conf: p.b, Path: "b.yaml", Version: "test", Operator: "tester",
		Open: func(ctx context.Context, t config.Target) (objstore.Store, func(), error) {
			st, err := objstore.Open(ctx, t.URL, objstore.Options{})
			return st, func() {}, err
		},
		Confirm: func(*promote.Report) error { return nil }, Tell: func(string) {},
		Stage:  func(string) (twin.Progress, func()) { return nil, func() {} },
		Logger: slog.New(slog.DiscardHandler)}
}

// TestWarmBack: with --at the images, which are newer, are put back in place, and the log has the
// earlier point again; cut short, it is done again.
func TestWarmBack(t *testing.T) {
	for _, cut := range []string{"", "caught up", "warm"} {
		t.Run(cut, func(t *testing.T) {
			p := newPair(t)
			p.lost()
			cutting := cut != ""
			d := p.start(func(step string) error {
				if cutting && step == cut {
					return errStep
				}
				return nil
			})
			req := api.Failover{At: "good", Agents: []string{"host-a"}}
			if cutting {
				if _, err := p.failover(req); err == nil {
					t.Fatal("it was not cut short")
				}
				cutting = false
			}
			rep, err := p.failover(req)
			if err != nil {
				t.Fatal(fail.Explain(err))
			}
			for _, g := range rep.Groups {
				if g.Name == "g" && g.LSN >= g.HeadLSN {
					t.Errorf("it did not go back: %+v", g)
				}
			}
			p.want(p.b, "v", map[int64]byte{0: 'A', 65536: 'B'})
			p.eventually("the log has it, too", func() error {
				return p.inLog("v", map[int64]byte{0: 'A', 65536: 'B'})
			})
			p.close(d)
		})
	}
}
