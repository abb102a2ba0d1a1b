package objstoretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// Run tests the stores that open returns, each of which must be empty; a
// prefix of its own is enough. Run closes them.
func Run(t *testing.T, open func(t *testing.T) objstore.Store) {
	tests := []struct {
		name string
		f    func(*testing.T, objstore.Store)
	}{
		{"Race", testRace},
		{"Overwrite", testOverwrite},
		{"Ranges", testRanges},
		{"Large", testLarge},
		{"Absent", testAbsent},
		{"Names", testNames},
		{"List", testList},
		{"ListPages", testListPages},
		{"ListStop", testListStop},
		{"Delete", testDelete},
		{"Lock", testLock},
		{"Cancelled", testCancelled},
		{"ConcurrentReads", testConcurrentReads},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := open(t)
			defer func() {
				if err := s.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}()
			tt.f(t, s)
		})
	}
}

// Bytes returns n bytes that compress to nothing and depend on seed.
func Bytes(seed uint64, n int) []byte {
	var key [32]byte
	copy(key[:], fmt.Sprint(seed))
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b) // never fails
	return b
}

func create(t *testing.T, s objstore.Store, name string, body []byte) {
	t.Helper()
	if err := s.Create(t.Context(), name, body); err != nil {
		t.Fatalf("create %s: %v", name, err)
	}
}

func read(t *testing.T, s objstore.Store, name string, off, n int64) []byte {
	t.Helper()
	b, err := s.Read(t.Context(), name, off, n, nil)
	if err != nil {
		t.Fatalf("read %s [%d, +%d): %v", name, off, n, err)
	}
	return b
}

// wantKind checks err's kind.
func wantKind(t *testing.T, what string, err error, kind fail.Kind) {
	t.Helper()
	if !fail.Is(err, kind) {
		t.Errorf("%s: error %v, want kind %v", what, err, kind)
	}
}

func testRace(t *testing.T, s objstore.Store) {
	const writers, rounds = 32, 5
	for round := range rounds {
		name := fmt.Sprintf("log/%020d", round)
		body := func(w int) []byte { return Bytes(uint64(round*writers+w), 4000+w) }
		errs := make([]error, writers)
		start := make(chan struct{})
		var g errgroup.Group
		for w := range writers {
			g.Go(func() error {
				<-start
				errs[w] = s.Create(t.Context(), name, body(w))
				return nil
			})
		}
		close(start)
		_ = g.Wait() // the goroutines return nil
		winner := -1
		for w, err := range errs {
			switch {
			case err == nil && winner >= 0:
				t.Fatalf("round %d: writers %d and %d both won", round, winner, w)
			case err == nil:
				winner = w
			case fail.Is(err, fail.Retry): // the store could not say: allowed, but not to win
			case !fail.Is(err, fail.Exists):
				t.Fatalf("round %d: writer %d: %v", round, w, err)
			}
		}
		if winner < 0 {
			t.Fatalf("round %d: nobody won: %v", round, errs)
		}
		if !bytes.Equal(read(t, s, name, 0, -1), body(winner)) {
			t.Fatalf("round %d: the object is not the winner's", round)
		}
	}
}

func testOverwrite(t *testing.T, s objstore.Store) {
	create(t, s, "log/1", []byte("first"))
	wantKind(t, "create again", s.Create(t.Context(), "log/1", []byte("other")), fail.Exists)
	wantKind(t, "create empty", s.Create(t.Context(), "log/1", nil), fail.Exists)
	wantKind(t, "create longer", s.Create(t.Context(), "log/1", make([]byte, 100_000)), fail.Exists)
	if b := read(t, s, "log/1", 0, -1); string(b) != "first" {
		t.Errorf("content %q, want the first", b)
	}
	create(t, s, "empty", nil)
	wantKind(t, "create over empty", s.Create(t.Context(), "empty", []byte("x")), fail.Exists)
	if b := read(t, s, "empty", 0, -1); len(b) != 0 {
		t.Errorf("the empty object has %d bytes", len(b))
	}
}

func testRanges(t *testing.T, s objstore.Store) {
	whole := Bytes(1, 10_000)
	create(t, s, "object", whole)
	create(t, s, "empty", []byte{})
	for _, tt := range []struct {
		name             string
		off, n           int64
		wantOff, wantEnd int
	}{
		{"object", 0, -1, 0, 10_000},
		{"object", 0, 10_000, 0, 10_000},
		{"object", 0, 1, 0, 1},
		{"object", 9_999, 1, 9_999, 10_000},
		{"object", 1234, 4321, 1234, 5555},
		{"object", 1234, -1, 1234, 10_000},
		{"object", 1234, 0, 1234, 1234},
		{"object", 9_000, 5_000, 9_000, 10_000},
		{"object", 0, 1 << 40, 0, 10_000},
		{"object", 10_000, 1, 0, 0},
		{"object", 10_000, -1, 0, 0},
		{"object", 20_000, 100, 0, 0},
		{"object", 20_000, -1, 0, 0},
		{"object", -1, -1, 9_999, 10_000},
		{"object", -100, -1, 9_900, 10_000},
		{"object", -100, 7, 9_900, 10_000},
		{"object", -100, 0, 9_900, 10_000},
		{"object", -10_000, -1, 0, 10_000},
		{"object", -10_001, -1, 0, 10_000},
		{"object", -1 << 30, -1, 0, 10_000},
		{"empty", 0, -1, 0, 0},
		{"empty", 0, 0, 0, 0},
		{"empty", 0, 10, 0, 0},
		{"empty", 10, 10, 0, 0},
		{"empty", -10, -1, 0, 0},
	} {
		if got := read(t, s, tt.name, tt.off, tt.n); !bytes.Equal(got, whole[tt.wantOff:tt.wantEnd]) {
			t.Errorf("%s off %d n %d: %d bytes, want [%d, %d)", tt.name, tt.off, tt.n, len(got), tt.wantOff, tt.wantEnd)
		}
	}
	for name, want := range map[string]int64{"object": 10_000, "empty": 0} {
		if n, err := s.Size(t.Context(), name); err != nil || n != want {
			t.Errorf("size of %s: %d, %v, want %d", name, n, err, want)
		}
	}
	buf := make([]byte, 3, 64)
	b, err := s.Read(t.Context(), "object", 10, 64, buf)
	if err != nil || !bytes.Equal(b, whole[10:74]) || &b[0] != &buf[0] {
		t.Errorf("read into a buffer that is large enough: %v, %d bytes", err, len(b))
	}
}

func testLarge(t *testing.T, s objstore.Store) {
	const size = 8 << 20
	whole := Bytes(2, size)
	keep := bytes.Clone(whole)
	create(t, s, "log/large", whole)
	if !bytes.Equal(whole, keep) {
		t.Fatal("create changed its argument")
	}
	if !bytes.Equal(read(t, s, "log/large", 0, -1), whole) {
		t.Error("read whole: other bytes")
	}
	if !bytes.Equal(read(t, s, "log/large", -70_000, -1), whole[size-70_000:]) {
		t.Error("read tail: other bytes")
	}
	if !bytes.Equal(read(t, s, "log/large", 3<<20+1, 2<<20), whole[3<<20+1:5<<20+1]) {
		t.Error("read range: other bytes")
	}
}

func testAbsent(t *testing.T, s objstore.Store) {
	create(t, s, "a/b", []byte("x"))
	for _, name := range []string{"absent", "log/absent", "a", "a/c", "a/b0"} {
		for _, off := range []int64{0, 10, -10} {
			_, err := s.Read(t.Context(), name, off, -1, nil)
			wantKind(t, fmt.Sprintf("read %s from %d", name, off), err, fail.NotFound)
		}
		_, err := s.Read(t.Context(), name, 0, 0, nil)
		wantKind(t, "read nothing of "+name, err, fail.NotFound)
		_, err = s.Size(t.Context(), name)
		wantKind(t, "size of "+name, err, fail.NotFound)
		if err := s.Delete(t.Context(), name); err != nil {
			t.Errorf("delete %s: %v", name, err)
		}
	}
	if b := read(t, s, "a/b", 0, -1); string(b) != "x" {
		t.Error("deleting a/b's first level changed a/b")
	}
}

func testDelete(t *testing.T, s objstore.Store) {
	create(t, s, "log/1", []byte("one"))
	create(t, s, "log/2", []byte("two"))
	if err := s.Delete(t.Context(), "log/1"); err != nil {
		t.Fatal(err)
	}
	_, err := s.Read(t.Context(), "log/1", 0, -1, nil)
	wantKind(t, "read deleted", err, fail.NotFound)
	if got := names(t, s, "", ""); len(got) != 1 || got[0] != "log/2" {
		t.Errorf("list after delete: %q", got)
	}
	create(t, s, "log/1", []byte("again"))
	if b := read(t, s, "log/1", 0, -1); string(b) != "again" {
		t.Errorf("content %q", b)
	}
}

func testCancelled(t *testing.T, s objstore.Store) {
	create(t, s, "log/1", []byte("one"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, readErr := s.Read(ctx, "log/1", 0, -1, nil)
	_, sizeErr := s.Size(ctx, "log/1")
	for what, err := range map[string]error{
		"create": s.Create(ctx, "log/2", []byte("two")),
		"read":   readErr,
		"size":   sizeErr,
		"list":   s.List(ctx, "", "", func(objstore.Info) error { return nil }),
		"delete": s.Delete(ctx, "log/1"),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a cancelled context: %v", what, err)
		}
	}
	if b := read(t, s, "log/1", 0, -1); string(b) != "one" {
		t.Errorf("content %q", b)
	}
}

func testConcurrentReads(t *testing.T, s objstore.Store) {
	const size = 1 << 20
	whole := Bytes(3, size)
	create(t, s, "log/1", whole)
	var g errgroup.Group
	for r := range 16 {
		g.Go(func() error {
			var buf []byte
			for i := range 8 {
				off, n := int64(r*40_000+i*1000), int64(r*10_000+i)
				b, err := s.Read(t.Context(), "log/1", off, n, buf)
				if err != nil {
					return err
				}
				if !bytes.Equal(b, whole[off:off+n]) {
					return fmt.Errorf("reader %d: other bytes in [%d, +%d)", r, off, n)
				}
				buf = b
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// testLock is for stores, and buckets, without Object Lock.
func testLock(t *testing.T, s objstore.Store) {
	if r, err := s.LockRule(t.Context()); err != nil || r.For != 0 {
		t.Errorf("a rule: %+v, %v", r, err)
	}
	if _, err := s.Lock(t.Context(), "absent"); !fail.Is(err, fail.NotFound) {
		t.Errorf("the lock of nothing: %v", err)
	}
	create(t, s, "a", []byte("a"))
	if l, err := s.Lock(t.Context(), "a"); err != nil || l.Mode != "" || l.For() != 0 {
		t.Errorf("%+v, %v", l, err)
	}
	err := s.Extend(t.Context(), "a", objstore.Lock{Mode: objstore.Governance, Until: time.Now().Add(time.Hour)})
	if !fail.Is(err, fail.Unsupported) && !fail.Is(err, fail.Invalid) {
		t.Errorf("extended: %v", err)
	}
}
