package failback

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/node"
	"github.com/pollux-dr/pollux/control/promote"
	"github.com/pollux-dr/pollux/control/standby"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/nbdclient"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
	engine "github.com/pollux-dr/pollux/replicator/twin/standby"
)

const (
	volumeBytes = 8 << 20
	blockBytes  = 16 << 10
)

// sites are two of them, with a store at the second.
type sites struct {
	t      *testing.T
	dir    string
	random *rand.ChaCha8
	images map[string][]byte // what the seat's volumes hold, by name
	blocks atomic.Int64      // bytes of blocks that were read from the store, footers apart
}

// TestMain lets several run at once on a machine of few cores: they wait for disks most of the time.
func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", strconv.Itoa(max(4, runtime.GOMAXPROCS(0)))); err != nil {
		panic(err)
	}
	flag.Parse()
	os.Exit(m.Run())
}

func newSites(t *testing.T) *sites {
	dir, err := os.MkdirTemp("/tmp", "pf-") // short: sockets are in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &sites{t: t, dir: dir, random: rand.NewChaCha8([32]byte{1}), images: map[string][]byte{}}
	if err := os.Mkdir(s.store(), 0o755); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *sites) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *sites) store() string { return filepath.Join(s.dir, "bucket") }

// away takes the store away from everybody, and back brings it back.
func (s *sites) away() { s.must(os.Rename(s.store(), s.store()+".away")) }

func (s *sites) back() {
	_ = os.Remove(s.store()) // empty, of whoever opened it meanwhile
	s.must(os.Rename(s.store()+".away", s.store()))
}

// conf is the configuration of a host at a site.
func (s *sites) conf(host, site string) *config.Agent {
	s.t.Helper()
	path := filepath.Join(s.dir, host+".yaml")
	text := fmt.Sprintf("name: %s\nsite: %s\nstate: %s/%s\nruntime: %s/run-%s\nmemory: 16MiB\njournal:\n  targets:\n"+
		"  - {name: far, url: %q, site: busan}\n", host, site, s.dir, host, s.dir, host, "file://"+s.store())
	s.must(os.WriteFile(path, []byte(text), 0o600))
	c, err := config.LoadAgent(path)
	s.must(err)
	return c
}

func (s *sites) start(c *config.Agent) *node.Daemon {
	s.t.Helper()
	d, err := node.Start(s.t.Context(), c, "test", slog.New(slog.DiscardHandler))
	s.must(err)
	return d
}

func (s *sites) call(c *config.Agent, verb string, req any) {
	s.t.Helper()
	if err := api.Dial(c.Socket).Call(s.t.Context(), verb, req, new(json.RawMessage)); err != nil {
		s.t.Fatalf("%s: %v", verb, err)
	}
}

func (s *sites) dial(c *config.Agent, volume string) *nbdclient.Conn {
	s.t.Helper()
	n, err := nbdclient.DialAddr(s.t.Context(), "unix", c.NBD.Unix, volume, nil)
	s.must(err)
	return n
}

// write puts something new into blocks, each of which is flushed.
func (s *sites) write(c *config.Agent, volume string, blocks ...int64) {
	s.t.Helper()
	n := s.dial(c, volume)
	defer n.Close()
	for _, block := range blocks {
		p := s.images[volume][block*blockBytes:][:blockBytes]
		_, _ = s.random.Read(p)
		s.must(n.WriteAt(s.t.Context(), p, block*blockBytes, 0))
		s.must(n.Flush(s.t.Context()))
	}
}

func (s *sites) createVolume(c *config.Agent, name string) {
	s.t.Helper()
	s.call(c, api.VerbVolumeCreate, api.VolumeCreate{Name: name, Group: "g", SizeBytes: volumeBytes})
	s.images[name] = make([]byte, volumeBytes)
}

// zero makes a block zeros.
func (s *sites) zero(c *config.Agent, volume string, block int64) {
	s.t.Helper()
	n := s.dial(c, volume)
	defer n.Close()
	clear(s.images[volume][block*blockBytes:][:blockBytes])
	s.must(n.Zero(s.t.Context(), block*blockBytes, blockBytes, 0))
	s.must(n.Flush(s.t.Context()))
}

func (s *sites) snapshot() map[string][]byte {
	out := map[string][]byte{}
	for name, image := range s.images {
		out[name] = bytes.Clone(image)
	}
	return out
}

// inLog waits until the log's newest points are what the seat has.
func (s *sites) inLog() {
	s.t.Helper()
	for range 1000 {
		l := s.log()
		same := true
		for name, want := range s.images {
			got := make(content, volumeBytes)
			p, err := l.PointOf(s.t.Context(), name, "")
			if err == nil {
				_, err = l.Restore(s.t.Context(), p, got)
			}
			same = same && err == nil && bytes.Equal(got, want)
		}
		if same {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.t.Fatal("the log does not get what the seat has")
}

func (s *sites) log() *twin.Log {
	s.t.Helper()
	st, err := objstore.Open(s.t.Context(), "file://"+s.store(), objstore.Options{ReadOnly: true})
	s.must(err)
	s.t.Cleanup(func() { _ = st.Close() })
	l, err := twin.Open(s.t.Context(), st, nil)
	s.must(err)
	return l
}

type content []byte

func (m content) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }

// story is what the tests begin with: A replicates, goes on alone, is lost, and B has taken over.
type story struct {
	*sites
	a, b   *config.Agent
	db     *node.Daemon
	parted map[string][]byte // what both have: the branch point
	lone   map[string][]byte // what A had last
}

// newStory plays it. alone writes at A what never leaves it.
func newStory(t *testing.T, alone func(s *sites, a *config.Agent)) *story {
	s := newSites(t)
	a := s.conf("host-a", "seoul")
	d := s.start(a)
	s.call(a, api.VerbGroupPut, api.GroupPut{Name: "g", Create: true})
	for _, name := range []string{"v", "w"} {
		s.createVolume(a, name)
		var blocks []int64
		for block := range int64(64) {
			blocks = append(blocks, 2*block)
		}
		s.write(a, name, blocks...)
	}
	s.inLog()
	out := &story{sites: s, a: a, b: s.conf("host-b", "busan"), parted: s.snapshot()}
	s.away()
	alone(s, a)
	out.lone = s.snapshot()
	s.must(d.Close())
	s.back()
	s.images = map[string][]byte{}
	for name, image := range out.parted {
		s.images[name] = bytes.Clone(image)
	}
	_, err := promote.Force(t.Context(), s.promotion(out.b))
	s.must(err)
	out.db = s.start(out.b)
	t.Cleanup(out.closeB)
	return out
}

// closeB stops the agent at B, once.
func (s *story) closeB() {
	if s.db != nil {
		s.must(s.db.Close())
	}
	s.db = nil
}

func (s *sites) promotion(c *config.Agent) promote.Options {
	return promote.Options{Conf: c, Path: "b.yaml", Version: "test", Operator: "tester", Open: s.open,
		Confirm: func(*promote.Report) error { return nil }, Tell: func(string) {},
		Stage:  func(string) (twin.Progress, func()) { return nil, func() {} },
		Logger: slog.New(slog.DiscardHandler)}
}

func (s *sites) open(ctx context.Context, t config.Target) (objstore.Store, func(), error) {
	st, err := objstore.Open(ctx, t.URL, objstore.Options{})
	return st, func() {}, err
}

// counting counts what is read of blocks, and not of objects' ends.
type counting struct {
	objstore.Store
	n *atomic.Int64
}

func (c counting) Read(ctx context.Context, name string, off, n int64, buf []byte) ([]byte, error) {
	b, err := c.Store.Read(ctx, name, off, n, buf)
	if off > 0 {
		c.n.Add(int64(len(b)))
	}
	return b, err
}

func (s *sites) options(c *config.Agent) Options {
	return Options{Conf: c, Path: "a.yaml", Confirm: func(*Report) error { return nil }, Tell: func(string) {},
		Open: func(ctx context.Context, t config.Target) (objstore.Store, func(), error) {
			st, err := objstore.Open(ctx, t.URL, objstore.Options{ReadOnly: true})
			return counting{st, &s.blocks}, func() {}, err
		},
		Stage:  func(string) (twin.Progress, func()) { return nil, func() {} },
		Logger: slog.New(slog.DiscardHandler)}
}

// backing is what a host's image of a volume holds.
func (s *sites) backing(c *config.Agent, volume string) []byte {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(c.State, "volumes", volume+".img"))
	s.must(err)
	return b
}

func (s *sites) wantBackings(c *config.Agent, want map[string][]byte) {
	s.t.Helper()
	for name := range want {
		if at := differ(s.backing(c, name), want[name]); at >= 0 {
			s.t.Errorf("the backing of %s differs in block %d", name, at)
		}
	}
}

// differ is the first block that does, or -1.
func differ(a, b []byte) int {
	if len(a) != len(b) {
		return 0
	}
	for i := 0; i < len(a); i += blockBytes {
		if !bytes.Equal(a[i:i+blockBytes], b[i:i+blockBytes]) {
			return i / blockBytes
		}
	}
	return -1
}

// follow runs a standby until its images are what the seat has.
func (s *sites) follow(c *config.Agent) {
	s.t.Helper()
	d, err := standby.Start(s.t.Context(), c, standby.Options{Version: "test", Logger: slog.New(slog.DiscardHandler)})
	s.must(err)
	same := false
	for range 1000 {
		same = true
		for name, want := range s.images {
			same = same && differ(s.backing(c, name), want) < 0
		}
		if same {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !same {
		s.t.Error("the standby's images are not the seat's")
	}
	s.must(d.Close())
}

// tree is what lies in a directory, by path.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		out[path] = strconv.Itoa(len(b)) + ":" + string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// engine follows to the end of the log, and returns how much of blocks it read for that.
func (s *sites) engine(c *config.Agent) int64 {
	s.t.Helper()
	st, err := objstore.Open(s.t.Context(), "file://"+s.store(), objstore.Options{ReadOnly: true})
	s.must(err)
	defer st.Close()
	var n atomic.Int64
	e, err := engine.Open(engine.Options{Store: counting{st, &n}, Dir: filepath.Join(c.State, "standby"),
		Want: func(*state.State) (out []engine.Volume) {
			for name := range s.images {
				out = append(out, engine.Volume{Name: name, Path: filepath.Join(c.State, "volumes", name+".img")})
			}
			return out
		}})
	s.must(err)
	held, err := e.CatchUp(s.t.Context(), 0)
	s.must(err)
	if len(held) != len(s.images) {
		s.t.Errorf("it holds %v", held)
	}
	return n.Load()
}
