package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/crashfs"
	"github.com/pollux-dr/pollux/internal/nbdclient"
	"github.com/pollux-dr/pollux/internal/provenance"
	"github.com/pollux-dr/pollux/internal/quantity"
	"github.com/pollux-dr/pollux/internal/seed"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/hydrate"
)

// newestPoint is the newest one of a volume in a store.
func newestPoint(ctx context.Context, url, volume string, fs vfs.FS) (hydrate.Point, error) {
	s, err := objstore.Open(ctx, url, objstore.Options{FS: fs})
	if err != nil {
		return hydrate.Point{}, err
	}
	defer s.Close()
	l, err := twin.Open(ctx, s, nil)
	if err != nil {
		return hydrate.Point{}, err
	}
	p, err := l.PointOf(ctx, volume, "")
	if err != nil {
		return hydrate.Point{}, err
	}
	return hydrate.PointOf(ctx, l, p)
}

// slowly lets the background read next to nothing, so that clients come first.
func slowly(c *config.Agent) { c.HydrateRate = 1 }

// hydratingCrash leaves on mem a volume whose backing was lost, and is now an image that is
// filled from the store.
func hydratingCrash(t *testing.T, ctx context.Context, mem vfs.FS, m *crashModel, rnd *rand.Rand, seed uint64) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	d, err := crashDaemon(ctx, mem, t.TempDir(), seed)
	must(err)
	must(script(ctx, d, m, rnd))
	must(waitDurable(ctx, d.service(), m))
	must(waitReady(ctx, d))
	must(d.Close())
	must(errors.Join(mem.Remove("/state/v.img"), mem.Remove("/state/v.img.mark")))
	at, err := newestPoint(ctx, "file:///remote", crashVolume, mem)
	must(err)
	must(hydrate.Create(hydrate.Place{Path: "/state/v.img", FS: mem}, at))
	d, err = crashDaemon(ctx, mem, t.TempDir(), seed)
	must(err)
	_, err = d.service().VolumeAccept(ctx, api.VolumeAccept{Name: crashVolume})
	must(errors.Join(err, d.Close()))
}

// TestPowerCutHydrating cuts the power again and again while the volume is served of an image
// that is being filled, by clients' reads and writes and by the background.
func TestPowerCutHydrating(t *testing.T) {
	base := seed.New(t)
	for i, rate := range []func(*config.Agent){slowly, func(*config.Agent) {}} {
		seed := base + uint64(i)
		ctx, cancel := context.WithTimeout(t.Context(), scriptTimeout)
		defer cancel()
		mem, m := vfs.NewCrashableMem(), &crashModel{bookmark: map[string]uint64{}}
		rnd := rand.New(rand.NewPCG(seed, 9))
		hydratingCrash(t, ctx, mem, m, rnd, seed)
		type cut struct {
			fs *vfs.MemFS
			p  *crashModel
			op crashfs.Op
		}
		var mu sync.Mutex
		var cuts []cut
		ops := 0
		fs := &crashfs.FS{FS: mem}
		fs.Before = func(op crashfs.Op) {
			mu.Lock()
			defer mu.Unlock()
			if ops++; ops%5 != int(seed%5) || len(cuts) >= 60 {
				return
			}
			p := m.promised()
			var c *vfs.MemFS
			fs.Quiet(func() {
				c = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 50, 100}[len(cuts)%3],
					RNG: rand.New(rand.NewPCG(seed, uint64(ops)))})
			})
			cuts = append(cuts, cut{c, p, op})
		}
		d, err := crashDaemon(ctx, fs, t.TempDir(), seed, rate)
		if err != nil {
			t.Fatal(err)
		}
		if err := readAndWrite(ctx, d, m, rnd); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		halfway := 0
		for _, c := range cuts {
			if pending, _ := (&hydrate.Place{Path: "/state/v.img", FS: c.fs}).Pending(); pending {
				halfway++
			}
			if err := verify(c.fs, c.p, t.TempDir(), seed); err != nil {
				t.Errorf("seed %d: cut before %s %s: %v", seed, c.op.Kind, c.op.Path, err)
			}
		}
		t.Logf("%d power cuts, %d of them while it was filled", len(cuts), halfway)
		if i == 0 && halfway < 10 {
			t.Error("too few to prove anything")
		}
	}
}

// readAndWrite compares what is read with the model while it writes.
func readAndWrite(ctx context.Context, d *Daemon, m *crashModel, rnd *rand.Rand) error {
	dev, err := d.agent.Device(crashVolume)
	if err != nil {
		return err
	}
	for i := range 24 {
		if err := randomOp(ctx, dev, m, rnd); err != nil {
			return err
		}
		off := rnd.Int64N(crashVolumeBytes - 9000)
		got, want := make([]byte, 1+rnd.IntN(9000)), m.image(uint64(len(m.ops)))
		if err := dev.ReadAt(ctx, got, off); err != nil {
			return err
		}
		if !bytes.Equal(got, want[off:off+int64(len(got))]) {
			return fmt.Errorf("operation %d: what was read at %d differs from the model", i, off)
		}
		if i%4 == 3 {
			if err := flushAll(ctx, dev, m); err != nil {
				return err
			}
		}
	}
	return nil
}

// lostBacking is an agent that is stopped, whose volume v holds `want` and has an image in place of
// its lost backing, which is to be filled from the store, slowly.
func lostBacking(t *testing.T, r *rand.Rand) (conf *config.Agent, dir string, hooks testHooks, want []byte) {
	t.Helper()
	conf, dir = regressConf(t)
	ctx := context.Background()
	const size = hydratingBytes
	img := filepath.Join(dir, "v.img")
	want = make([]byte, size)
	for i := range want[:size*3/4] {
		want[i] = byte(r.Uint32())
	}
	if err := os.WriteFile(img, want, 0o600); err != nil {
		t.Fatal(err)
	}
	// The WAL is trimmed soon: else the image would be filled from it.
	hooks = testHooks{walSegment: 1 << 20, checkpoint: 3 * time.Millisecond}
	d := startTest(t, conf, hooks)
	svc := d.service()
	if _, err := svc.GroupPut(ctx, api.GroupPut{Name: "g", Create: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := svc.VolumeCreate(ctx, api.VolumeCreate{Name: "v", Group: "g", Backing: img}); err != nil {
		t.Fatal(err)
	}
	awaitRemote(t, d)
	for deadline := time.Now().Add(crashTimeout); d.agent.Status().WAL.LiveBytes > size/4; {
		if time.Sleep(time.Millisecond); time.Now().After(deadline) {
			t.Fatalf("the WAL is not trimmed: %+v", d.agent.Status().WAL)
		}
	}
	stopTest(t, d)
	if err := os.Remove(img); err != nil {
		t.Fatal(err)
	}
	at, err := newestPoint(ctx, "file://"+dir+"/remote", "v", vfs.Default)
	if err != nil {
		t.Fatal(err)
	}
	if err := hydrate.Create(HydratingPlace(conf, img), at); err != nil {
		t.Fatal(err)
	}
	conf.HydrateRate = quantity.Bytes(1)
	d = startTest(t, conf, hooks)
	if _, err := d.service().VolumeAccept(ctx, api.VolumeAccept{Name: "v"}); err != nil {
		t.Fatal(err)
	}
	stopTest(t, d)
	return conf, dir, hooks, want
}

const hydratingBytes = 16 << 20

// TestHydrating: the backing of a volume is lost. Its agent serves it over NBD at once, of an
// image that is filled from the store; it is stopped half way, and goes on; in the end all is
// here, and the store is not needed.
func TestHydrating(t *testing.T) {
	r := rand.New(rand.NewPCG(seed.New(t), 1))
	conf, dir, hooks, want := lostBacking(t, r)
	ctx, img := context.Background(), filepath.Join(dir, "v.img")
	const size = hydratingBytes
	place := HydratingPlace(conf, img)
	d := startTest(t, conf, hooks)
	exercise(t, d, r, want, 40)
	before := hydrationOf(t, d)
	if before == nil || before.HydratedBytes == 0 || before.HydratedBytes >= size || before.Volume != "v" {
		t.Fatalf("half way: %+v", before)
	}
	if st, err := d.service().Status(ctx, struct{}{}); err != nil || len(st.Agent.Hydrating) != 1 {
		t.Errorf("status: %+v, %v", st.Agent, err)
	}
	dev, err := d.agent.Device("v")
	if err != nil {
		t.Fatal(err)
	}
	if all, err := dev.Extents(ctx, 0, size); err != nil || len(all) != 1 || all[0] != (block.Extent{Bytes: size}) {
		t.Errorf("what is not here yet is called a hole: %v, %v", all, err)
	}
	stopTest(t, d)

	conf.HydrateRate = 0
	d = startTest(t, conf, hooks)
	exercise(t, d, r, want, 40)
	for deadline := time.Now().Add(crashTimeout); hydrationOf(t, d) != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it is not complete in time: %+v", hydrationOf(t, d))
		}
	}
	exercise(t, d, r, want, 10)
	stopTest(t, d)
	if pending, err := place.Pending(); err != nil || pending || provenance.Hydrating(img) != "" {
		t.Error("it is complete, and pending: ", pending, err)
	}
	if got, err := os.ReadFile(img); err != nil || !bytes.Equal(got, want) {
		t.Error("the image differs: ", err)
	}
}

// TestStopAway: while the store is away, an agent stops in seconds, though a client waits for
// what is not here, and a write of a part of a page cannot be applied. The write is not lost.
func TestStopAway(t *testing.T) {
	r := rand.New(rand.NewPCG(seed.New(t), 1))
	conf, dir, hooks, want := lostBacking(t, r)
	d := startTest(t, conf, hooks)
	remote := filepath.Join(dir, "remote")
	if err := os.Rename(remote, remote+"-away"); err != nil {
		t.Fatal(err)
	}
	c, err := nbdclient.Dial(t.Context(), "nbd+unix:///v?socket="+conf.NBD.Unix, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	part := []byte("a part of a page")
	copy(want[8<<20+100:], part)
	if err := errors.Join(c.WriteAt(t.Context(), part, 8<<20+100, 0), c.Flush(t.Context())); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.ReadAt(context.Background(), make([]byte, 100), 4<<20) }()
	for deadline := time.Now().Add(crashTimeout); hydrationOf(t, d).Error == ""; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the status does not say that the store is away")
		}
	}
	select {
	case err := <-ended:
		t.Error("the read did not wait: ", err)
	default:
	}
	began := time.Now()
	stopTest(t, d)
	if took := time.Since(began); took > fetchTimeout+10*applyGrace {
		t.Errorf("it took %v to stop", took)
	}
	if err := os.Rename(remote+"-away", remote); err != nil {
		t.Fatal(err)
	}
	conf.HydrateRate = 0
	d = startTest(t, conf, hooks)
	exercise(t, d, r, want, 10)
	got := make([]byte, len(part))
	dev, err := d.agent.Device("v")
	if err == nil {
		err = dev.ReadAt(t.Context(), got, 8<<20+100)
	}
	if err != nil || !bytes.Equal(got, want[8<<20+100:][:len(part)]) {
		t.Errorf("%q, %v", got, err)
	}
	stopTest(t, d)
}

func stopTest(t *testing.T, d *Daemon) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

func awaitRemote(t *testing.T, d *Daemon) {
	t.Helper()
	st := d.agent.Status().Streams[0]
	for done := uint64(0); done < st.LastLSN; {
		_, durable, err := d.agent.WaitRemote(t.Context(), st.Conf.ID, done)
		if err != nil {
			t.Fatal(err)
		}
		done = durable
	}
	ctx, cancel := context.WithTimeout(t.Context(), crashTimeout)
	defer cancel()
	for d.host.Target("remote").Index < d.host.LastIndex() { // the command that it is ready
		if ctx.Err() != nil {
			t.Fatal("the store does not get the last commands")
		}
		time.Sleep(time.Millisecond)
	}
}

func hydrationOf(t *testing.T, d *Daemon) *api.Hydration {
	t.Helper()
	vols, err := d.service().VolumeList(t.Context(), api.List{})
	if err != nil || len(vols) != 1 {
		t.Fatal(vols, err)
	}
	return vols[0].Hydration
}

// exercise reads and writes over NBD, and compares.
func exercise(t *testing.T, d *Daemon, r *rand.Rand, want []byte, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), crashTimeout)
	defer cancel()
	c, err := nbdclient.Dial(ctx, "nbd+unix:///v?socket="+d.conf.NBD.Unix, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range n {
		off := r.Int64N(int64(len(want)) - 70000)
		p := want[off:][:1+r.IntN(70000)]
		switch {
		case i%3 == 0:
			for k := range p {
				p[k] = byte(r.Uint32())
			}
			err = c.WriteAt(ctx, p, off, 0)
		case i%10 == 7:
			clear(p)
			err = c.Zero(ctx, off, int64(len(p)), 0)
		case i%10 == 8:
			err = c.Flush(ctx)
		default:
			got := make([]byte, len(p))
			if err = c.ReadAt(ctx, got, off); err == nil && !bytes.Equal(got, p) {
				t.Fatalf("request %d: %d bytes at %d differ", i, len(p), off)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
