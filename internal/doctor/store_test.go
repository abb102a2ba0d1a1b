package doctor

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// fake is a store in memory, with one thing wrong if the test wants so.
type fake struct {
	mu      sync.Mutex
	objects map[string][]byte
	skew    time.Duration

	create func(name string, exists bool) error // nil: right
	change func(b []byte) []byte                // what is stored
	absent error
	list   error
	remove error
	short  bool // ranges are not honoured
	stale  bool // lists miss an object
}

func (f *fake) URL() string { return "mem://test" }

func (f *fake) Create(ctx context.Context, name string, body []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, exists := f.objects[name]
	if f.create != nil {
		if err := f.create(name, exists); err != nil {
			return err
		}
	} else if exists {
		return fail.New(fail.Exists, "create", name, "exists")
	}
	if f.change != nil {
		body = f.change(bytes.Clone(body))
	}
	f.objects[name] = bytes.Clone(body)
	return ctx.Err()
}

func (f *fake) Read(_ context.Context, name string, off, n int64, _ []byte) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, there := f.objects[name]
	switch {
	case !there && f.absent != nil:
		return nil, f.absent
	case !there:
		return nil, fail.New(fail.NotFound, "read", name, "absent")
	case f.short:
		return b, nil
	case off < 0:
		return b[max(0, int64(len(b))+off):], nil
	case n < 0:
		return b[off:], nil
	}
	return b[off:min(int64(len(b)), off+n)], nil
}

func (f *fake) Size(ctx context.Context, name string) (int64, error) {
	b, err := f.Read(ctx, name, 0, -1, nil)
	return int64(len(b)), err
}

func (f *fake) List(_ context.Context, prefix string, fn func(Info) error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.list != nil {
		return f.list
	}
	names := slices.Sorted(maps.Keys(f.objects))
	if f.stale && len(names) > 2 {
		names = names[1:]
	}
	for _, name := range names {
		if strings.HasPrefix(name, prefix) {
			if err := fn(Info{name, int64(len(f.objects[name])), time.Now().Add(f.skew)}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *fake) Delete(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.remove == nil {
		delete(f.objects, name)
	}
	return f.remove
}

func (f *fake) Keep(ctx context.Context, name string, body []byte) (string, time.Duration, error) {
	return "", 0, f.Create(ctx, name, body)
}

func newFake() *fake { return &fake{objects: map[string][]byte{}} }

// byCheck runs all checks and returns them by name.
func byCheck(t *testing.T, s Store) map[string]Result {
	t.Helper()
	told := 0
	all := CheckStore(t.Context(), s, func(Result) { told++ })
	m := map[string]Result{}
	for _, r := range all {
		m[r.Check] = r
		if r.Subject != s.URL() || r.Text == "" {
			t.Errorf("incomplete: %+v", r)
		}
	}
	if told != len(all) {
		t.Errorf("%d of %d results were told", told, len(all))
	}
	return m
}

func TestGoodStore(t *testing.T) {
	f := newFake()
	for name, r := range byCheck(t, f) {
		if r.Level != OK {
			t.Errorf("%s: %v", name, r)
		}
	}
	if len(f.objects) > 0 {
		t.Errorf("%d objects were left", len(f.objects))
	}
}

func TestBadStores(t *testing.T) {
	denied := fail.New(fail.Denied, "x", "y", "forbidden")
	for _, tt := range []struct {
		name  string
		do    func(f *fake)
		check string
		level Level
		text  string
	}{
		{"overwrites", func(f *fake) {
			f.create = func(string, bool) error { return nil }
		}, "conditional create under a race", Fail, "writers were told"},
		{"refuses all", func(f *fake) {
			f.create = func(name string, exists bool) error {
				if strings.Contains(name, "race") {
					return fail.New(fail.Exists, "create", name, "exists")
				}
				return nil
			}
		}, "conditional create under a race", Fail, "existed before"},
		{"reports a conflict for a winner", func(f *fake) {
			f.create = func(name string, exists bool) error {
				if exists {
					return fail.New(fail.Retry, "create", name, "conflict")
				}
				return nil
			}
		}, "conditional create under a race", Fail, "creating an object that exists gave"},
		{"changes bytes", func(f *fake) {
			f.change = func(b []byte) []byte {
				if len(b) == 1<<20 {
					b[77]++
				}
				return b
			}
		}, "read back", Fail, "others"},
		{"no ranges", func(f *fake) { f.short = true }, "range read of the tail", Fail, "not that part"},
		{"403 for absent", func(f *fake) { f.absent = denied }, "missing object", Fail, "forbidden"},
		{"other error for absent", func(f *fake) {
			f.absent = fail.New(fail.Retry, "x", "y", "proxy")
		}, "missing object", Fail, "proxy"},
		{"no list", func(f *fake) { f.list = denied }, "listing", Fail, "forbidden"},
		{"stale list", func(f *fake) { f.stale = true }, "listing", Fail, "are listed as"},
		{"clock", func(f *fake) { f.skew = time.Hour }, "clock against the store", Fail, "1h0m0s"},
		{"clock a little", func(f *fake) { f.skew = -20 * time.Second }, "clock against the store", Warn, "differs"},
		{"no delete", func(f *fake) { f.remove = denied }, "clean up", OK, "right for a journal"},
		{"delete fails", func(f *fake) {
			f.remove = fail.New(fail.Retry, "x", "y", "busy")
		}, "clean up", Warn, "stay: x y: busy"},
	} {
		f := newFake()
		tt.do(f)
		r := byCheck(t, f)[tt.check]
		if r.Level != tt.level || !strings.Contains(r.Text, tt.text) {
			t.Errorf("%s: %v", tt.name, r)
		}
		if r.Hint == "" && tt.check != "missing object" {
			t.Errorf("%s: no hint: %v", tt.name, r)
		}
	}
}

// TestUnreachable: one line says it all.
func TestUnreachable(t *testing.T) {
	f := newFake()
	f.create = func(string, bool) error { return fail.New(fail.Denied, "create", "x", "403") }
	if all := CheckStore(t.Context(), f, func(Result) {}); len(all) != 1 || all[0].Level != Fail || all[0].Hint == "" {
		t.Errorf("%v", all)
	}
}

// TestInterrupted: what was written is deleted all the same.
func TestInterrupted(t *testing.T) {
	f := newFake()
	ctx, cancel := context.WithCancel(t.Context())
	CheckStore(ctx, f, func(r Result) {
		if r.Check == "read back" {
			cancel()
		}
	})
	if len(f.objects) > 0 {
		t.Errorf("%d objects were left", len(f.objects))
	}
}

func TestWorst(t *testing.T) {
	for _, tt := range []struct {
		in   []Level
		want Level
	}{{nil, OK}, {[]Level{OK, Warn, OK}, Warn}, {[]Level{Warn, Fail, Warn}, Fail}, {[]Level{Fail, OK}, Fail}} {
		var all []Result
		for _, l := range tt.in {
			all = append(all, Result{Level: l})
		}
		if got := Worst(all); got != tt.want {
			t.Errorf("%v: %v", tt.in, got)
		}
	}
}
