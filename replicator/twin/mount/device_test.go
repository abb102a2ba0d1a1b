package mount

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/seed"
	"github.com/pollux-dr/pollux/replicator/logtest"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testBytes = extent.LeafBytes + 3<<20 + 777

// mounted is a volume of a random log, and a mount of it at a point.
type mounted struct {
	*Device
	dir  string
	log  *logtest.Log
	want []byte
	r    *rand.Rand
}

func newMounted(t *testing.T, o Options, folding bool) *mounted {
	seed := seed.New(t)
	m := &mounted{r: rand.New(rand.NewPCG(seed, 0)), dir: t.TempDir()}
	s, err := objstore.Open(t.Context(), "file://"+m.dir, objstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	m.log = logtest.New(t, s)
	m.log.Folding = folding
	m.log.Volume("v", testBytes)
	m.log.Frame(m.log.Write("v", extent.LeafBytes-5000, bytes.Repeat([]byte{9}, 10000)))
	m.log.Random(m.r, 40)
	m.log.Frame(m.log.Write("v", testBytes-100, bytes.Repeat([]byte{8}, 100)))
	m.log.Segment()
	l, err := twin.Open(t.Context(), s, nil)
	if err != nil || l.Damage != nil {
		t.Fatal(err, l.Damage)
	}
	v, err := l.Volume("v")
	if err != nil {
		t.Fatal(err)
	}
	p, err := l.Resolve(context.Background(), v, "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	image, err := l.Image(t.Context(), p, "")
	if err != nil {
		t.Fatal(err)
	}
	if m.Device, err = New(image, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if err := image.Close(); err != nil {
			t.Error(err)
		}
	})
	m.want = m.log.Images["v"]
	return m
}

func (m *mounted) compare(t *testing.T, off, n int64) {
	t.Helper()
	got := bytes.Repeat([]byte{0xee}, int(n))
	if err := m.ReadAt(t.Context(), got, off); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, m.want[off:off+n]) {
		for i := range got {
			if got[i] != m.want[off+int64(i)] {
				t.Fatalf("read of %d at %d differs at byte %d: %x, want %x", n, off, off+int64(i), got[i],
					m.want[off+int64(i)])
			}
		}
	}
}

func (m *mounted) somewhere() (off, n int64) {
	off = m.r.Int64N(testBytes)
	n = 1 + m.r.Int64N(min(testBytes-off, []int64{100, 9000, 1 << 20}[m.r.IntN(3)]))
	return off, n
}

// write changes the device and the model.
func (m *mounted) write(t *testing.T, off, n int64) {
	t.Helper()
	if m.r.IntN(4) == 0 {
		clear(m.want[off : off+n])
		if err := m.Zero(t.Context(), off, n, false, false); err != nil {
			t.Fatal(err)
		}
		return
	}
	b, err := m.Prepare(t.Context(), int(n))
	if err != nil {
		t.Fatal(err)
	}
	at := off
	for _, p := range b.Pieces() {
		for i := range p {
			p[i] = byte(m.r.Uint32())
		}
		at += int64(copy(m.want[at:], p))
	}
	if err := m.Write(t.Context(), b, off, false); err != nil {
		t.Fatal(err)
	}
}

// TestModel reads and writes at random, with a cache that is much too small, while
// others read, and compares every byte.
func TestModel(t *testing.T) {
	for _, folding := range []bool{false, true} {
		t.Run(fmt.Sprint("folding ", folding), func(t *testing.T) {
			m := newMounted(t, Options{Writable: true, CacheBytes: 256 << 10}, folding)
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			for i := range 2 {
				wg.Go(func() {
					r := rand.New(rand.NewPCG(uint64(i), 1))
					for buf := make([]byte, 70000); ctx.Err() == nil; {
						if err := m.ReadAt(ctx, buf, r.Int64N(testBytes-70000)); err != nil && ctx.Err() == nil {
							t.Error(err)
						}
					}
				})
			}
			ops := 400
			if testing.Short() { // the race detector makes each ten times as slow
				ops = 60
			}
			for range ops {
				off, n := m.somewhere()
				if m.r.IntN(3) == 0 {
					m.write(t, off, min(n, 1<<20))
				} else {
					m.compare(t, off, n)
				}
			}
			for off := int64(0); off < testBytes; off += 100000 { // in order: read-ahead
				m.compare(t, off, min(100000, testBytes-off))
			}
			m.checkExtents(t)
			cancel()
			wg.Wait()
			if st := m.Stats(); st.CachedBytes > 4*m.o.CacheBytes+2*fillBytes || st.WrittenBytes == 0 ||
				st.StoreBytes == 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// checkExtents: what is said to be zeros is.
func (m *mounted) checkExtents(t *testing.T) {
	t.Helper()
	holes := int64(0)
	for off := int64(0); off < testBytes; {
		out, err := m.Extents(t.Context(), off, testBytes-off)
		if err != nil || len(out) == 0 {
			t.Fatal(err)
		}
		for _, e := range out {
			if e.Zero {
				holes += e.Bytes
				for i := off; i < off+e.Bytes; i++ {
					if m.want[i] != 0 {
						t.Fatalf("byte %d is said to be zero", i)
					}
				}
			}
			off += e.Bytes
		}
	}
	if holes == 0 {
		t.Error("no holes")
	}
}

// TestHydrate: in the end the store is not needed, and all is right.
func TestHydrate(t *testing.T) {
	m := newMounted(t, Options{Writable: true, CacheBytes: 64 << 10}, false)
	for range 30 {
		off, n := m.somewhere()
		m.write(t, off, min(n, 1<<20))
	}
	if err := m.Hydrate(t.Context(), twin.Run{}); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(m.dir, "log")); err != nil {
		t.Fatal(err)
	}
	if !m.Stats().Hydrated {
		t.Error("not hydrated")
	}
	for off := int64(0); off < testBytes; off += 1 << 20 {
		m.compare(t, off, min(1<<20, testBytes-off))
	}
	m.checkExtents(t)
}

// TestRefuses: a read-only mount takes no writes, damage is an error with the
// object's name, and what lies outside is refused.
func TestRefuses(t *testing.T) {
	m := newMounted(t, Options{}, false)
	if _, err := m.Prepare(t.Context(), 10); !fail.Is(err, fail.Refused) {
		t.Errorf("write: %v", err)
	}
	if err := m.Zero(t.Context(), 0, 10, false, false); !fail.Is(err, fail.Refused) {
		t.Errorf("zero: %v", err)
	}
	if err := m.ReadAt(t.Context(), make([]byte, 10), testBytes-5); !fail.Is(err, fail.Invalid) {
		t.Errorf("outside: %v", err)
	}
	objects, err := filepath.Glob(filepath.Join(m.dir, "log", "*"))
	if err != nil || len(objects) == 0 {
		t.Fatal(err)
	}
	for _, path := range objects {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i := 300; i < len(b)/2; i += 100 {
			b[i] ^= 1
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	failed := 0
	for off := int64(0); off < testBytes; off += 1 << 20 {
		got := make([]byte, min(1<<20, testBytes-off))
		if err := m.ReadAt(t.Context(), got, off); fail.Is(err, fail.Damaged) {
			failed++
		} else if err != nil || !bytes.Equal(got, m.want[off:off+int64(len(got))]) {
			t.Fatalf("at %d: %v", off, err)
		}
	}
	if failed == 0 {
		t.Error("no damage was found")
	}
}
