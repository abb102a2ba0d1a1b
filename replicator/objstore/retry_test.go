package objstore_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

func openMem(t *testing.T) objstore.Store {
	t.Helper()
	return open(t, "file:///store", objstore.Options{FS: vfs.NewMem()})
}

// clock records what it is asked to sleep, and ends the context after max sleeps.
type clock struct {
	now    time.Time
	slept  []time.Duration
	max    int
	cancel context.CancelFunc
}

func (c *clock) Now() time.Time { return c.now }

func (c *clock) Sleep(ctx context.Context, d time.Duration) error {
	c.now = c.now.Add(d)
	if c.slept = append(c.slept, d); len(c.slept) == c.max {
		c.cancel()
	}
	return ctx.Err()
}

func TestRetryBacksOff(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	clk := &clock{max: 6, cancel: cancel}
	var heard []error
	broken := objstore.WithFaults(openMem(t), 1, objstore.Faults{Errors: 1})
	defer func() { _ = broken.Close() }()
	s := objstore.WithRetry(broken, objstore.Policy{
		MinBackoff: time.Second, MaxBackoff: 10 * time.Second, Jitter: 0.5, Clock: clk,
		Rand:   func() float64 { return 0.5 },
		Notify: func(err error) { heard = append(heard, err) },
	})
	_, err := s.Size(ctx, "x")
	if !fail.Is(err, fail.Retry) || !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	want := []time.Duration{750 * time.Millisecond, 1500 * time.Millisecond, 3 * time.Second, 6 * time.Second,
		7500 * time.Millisecond, 7500 * time.Millisecond}
	if !slices.Equal(clk.slept, want) {
		t.Errorf("slept %v, want %v", clk.slept, want)
	}
	if len(heard) != len(want) {
		t.Errorf("notified %d times, want %d", len(heard), len(want))
	}
}

func TestRetryOnlyPassingFaults(t *testing.T) {
	for kind := range fail.Unsupported + 1 {
		broken := objstore.WithFaults(openMem(t), 1, objstore.Faults{Errors: 1, Err: fail.New(kind, "", "", "x")})
		ctx, cancel := context.WithCancel(t.Context())
		clk := &clock{max: 3, cancel: cancel}
		s := objstore.WithRetry(broken, objstore.Policy{Clock: clk})
		if err := s.Create(ctx, "x", nil); !fail.Is(err, kind) {
			t.Errorf("%v became %v", kind, err)
		}
		if retried := len(clk.slept) > 0; retried != (kind == fail.Retry) {
			t.Errorf("%v: retried %v", kind, retried)
		}
		cancel()
		_ = broken.Close()
	}
}

func TestRetryableByPolicy(t *testing.T) {
	faulty := objstore.WithFaults(openMem(t), 1, objstore.Faults{Errors: 1, Err: fail.New(fail.Denied, "", "", "x")})
	defer func() { _ = faulty.Close() }()
	s := objstore.WithRetry(faulty, objstore.Policy{
		MinBackoff: time.Microsecond,
		Retryable:  func(err error) bool { return fail.Is(err, fail.Denied) },
		Notify:     func(error) { faulty.Set(objstore.Faults{}) }, // an operator mends it
	})
	if err := s.Create(t.Context(), "x", nil); err != nil {
		t.Error(err)
	}
}

// scripted fails a Create with the errors of a script, doing it or not.
type scripted struct {
	objstore.Store
	script []func(create func() error) error
}

func (s *scripted) Create(ctx context.Context, name string, body []byte) error {
	create := func() error { return s.Store.Create(ctx, name, body) }
	if len(s.script) == 0 {
		return create()
	}
	step := s.script[0]
	s.script = s.script[1:]
	return step(create)
}

func TestRetryAfterLostReply(t *testing.T) {
	lost := func(create func() error) error {
		return errors.Join(fail.New(fail.Retry, "", "", "lost"), create())
	}
	never := func(func() error) error { return fail.New(fail.Retry, "", "", "never arrived") }
	// A balancer sent the request twice, and passes on what became of the second.
	repeated := func(create func() error) error {
		return errors.Join(create(), fail.New(fail.Exists, "", "", "exists"))
	}
	for _, tt := range []struct {
		name  string
		there string // by another writer; "-" is nothing
		steps []func(func() error) error
		want  fail.Kind // 255 is success
	}{
		{"plain", "-", nil, 255},
		{"reply lost", "-", []func(func() error) error{lost}, 255},
		{"lost twice", "-", []func(func() error) error{lost, lost, never}, 255},
		{"never arrived", "-", []func(func() error) error{never}, 255},
		{"another's", "other", nil, fail.Exists},
		{"another's, lost", "other", []func(func() error) error{lost}, fail.Exists},
		{"another's, longer", "body and more", []func(func() error) error{lost}, fail.Exists},
		{"another's, shorter", "bod", []func(func() error) error{never, lost}, fail.Exists},
		{"another's, empty", "", []func(func() error) error{lost}, fail.Exists},
		{"repeated on the way", "-", []func(func() error) error{repeated}, 255},
		{"repeated on the way, another's", "other", []func(func() error) error{repeated}, fail.Exists},
		{"same bytes, first attempt", "body", nil, 255},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mem := openMem(t)
			s := objstore.WithRetry(&scripted{mem, tt.steps}, objstore.Policy{MinBackoff: time.Microsecond})
			if tt.there != "-" {
				if err := mem.Create(t.Context(), "x", []byte(tt.there)); err != nil {
					t.Fatal(err)
				}
			}
			err := s.Create(t.Context(), "x", []byte("body"))
			if tt.want == 255 && err != nil || tt.want != 255 && !fail.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

func TestRetryListGoesOn(t *testing.T) {
	inner := openMem(t)
	for i := range 20 {
		if err := inner.Create(t.Context(), fmt.Sprintf("%02d", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	s := objstore.WithRetry(&brokenList{inner}, objstore.Policy{MinBackoff: time.Microsecond})
	i := 0
	if err := s.List(t.Context(), "", "", func(info objstore.Info) error {
		if info.Name != fmt.Sprintf("%02d", i) {
			t.Errorf("entry %d is %s", i, info.Name)
		}
		i++
		return nil
	}); err != nil || i != 20 {
		t.Errorf("list: %v, %d entries", err, i)
	}
	stop := fail.New(fail.Retry, "", "", "the callback's own")
	i = 0
	if err := s.List(t.Context(), "", "", func(objstore.Info) error { i++; return stop }); err != stop || i != 1 {
		t.Errorf("a callback's error: %v after %d calls", err, i)
	}
}

// brokenList breaks after three entries.
type brokenList struct{ objstore.Store }

func (b *brokenList) List(ctx context.Context, prefix, after string, fn func(objstore.Info) error) error {
	n := 0
	return b.Store.List(ctx, prefix, after, func(i objstore.Info) error {
		if n++; n > 3 {
			return fail.New(fail.Retry, "", "", "connection lost")
		}
		return fn(i)
	})
}

func TestRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := objstore.WithRequests(openMem(t), 2, 3)
		begin := time.Now()
		for i := range 7 {
			if err := s.Create(t.Context(), fmt.Sprint(i), nil); err != nil {
				t.Fatal(err)
			}
		}
		// Three at once, then two a second.
		if d := time.Since(begin); d != 2*time.Second {
			t.Errorf("7 creates took %v, want 2 s", d)
		}
		begin = time.Now()
		if err := s.Reserve(t.Context()); err != nil {
			t.Fatal(err)
		}
		reserved := time.Since(begin)
		if err := s.Create(t.Context(), "reserved", nil); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begin); reserved != 500*time.Millisecond || d != reserved {
			t.Errorf("reserve took %v and create then %v, want 500 ms and nothing", reserved, d-reserved)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := s.Create(ctx, "late", nil); !fail.Is(err, fail.Retry) {
			t.Errorf("create without time to wait: %v", err)
		}
		begin = time.Now()
		waits := make(chan error, 1)
		go func() { waits <- s.Create(t.Context(), "waits", nil) }()
		synctest.Wait()
		s.Hurry(true)
		if err := errors.Join(<-waits, s.Create(t.Context(), "hurried", nil)); err != nil || time.Since(begin) > 0 {
			t.Errorf("in a hurry: %v, after %v", err, time.Since(begin))
		}
		s.Hurry(false)
		if err := s.Create(t.Context(), "again", nil); err != nil || time.Since(begin) == 0 {
			t.Errorf("after it: %v, after %v", err, time.Since(begin))
		}
		free := objstore.WithRequests(openMem(t), 0, 0)
		begin = time.Now()
		for i := range 1000 {
			if err := free.Create(t.Context(), fmt.Sprint(i), nil); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(begin); d != 0 {
			t.Errorf("without a limit, creates waited %v", d)
		}
	})
}

func TestFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := objstore.WithFaults(openMem(t), 7, objstore.Faults{Late: 1, LateBy: time.Minute})
		body := []byte("late")
		if err := s.Create(t.Context(), "x", body); !fail.Is(err, fail.Retry) {
			t.Fatalf("late create: %v", err)
		}
		copy(body, "XXXX") // it is the caller's again
		s.Set(objstore.Faults{})
		if _, err := s.Size(t.Context(), "x"); !fail.Is(err, fail.NotFound) {
			t.Errorf("at once: %v", err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if b, err := s.Read(t.Context(), "x", 0, -1, nil); err != nil || string(b) != "late" {
			t.Errorf("later: %q, %v", b, err)
		}

		s.Set(objstore.Faults{Stalls: 1})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Create(ctx, "y", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("stalled create: %v", err)
		}
		done := make(chan error, 2)
		go func() { done <- s.Create(t.Context(), "y", nil) }()
		synctest.Wait()
		s.Set(objstore.Faults{Latency: time.Second})
		if err := <-done; err != nil {
			t.Errorf("create after the stall: %v", err)
		}
		begin := time.Now()
		if _, err := s.Size(t.Context(), "y"); err != nil || time.Since(begin) != time.Second {
			t.Errorf("size with latency: %v after %v", err, time.Since(begin))
		}

		s.Set(objstore.Faults{Stalls: 1})
		go func() { done <- s.Create(t.Context(), "z", nil) }()
		synctest.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; err == nil {
			t.Error("a stalled create survived Close")
		}
	})
}

func TestFaultsAreSeeded(t *testing.T) {
	run := func(seed uint64) (out []bool) {
		s := objstore.WithFaults(openMem(t), seed, objstore.Faults{Errors: 0.3})
		defer func() { _ = s.Close() }()
		for i := range 200 {
			out = append(out, s.Create(t.Context(), fmt.Sprint(i), nil) == nil)
		}
		return out
	}
	a, b, c := run(1), run(1), run(2)
	good := 0
	for _, ok := range a {
		if ok {
			good++
		}
	}
	if !slices.Equal(a, b) || slices.Equal(a, c) || math.Abs(float64(good)-140) > 25 {
		t.Errorf("same seed equal %v, other seed equal %v, %d of 200 good", slices.Equal(a, b),
			slices.Equal(a, c), good)
	}
}

func TestObserver(t *testing.T) {
	var seen []objstore.Request
	s := open(t, "file:///store", objstore.Options{FS: vfs.NewMem(),
		Observe: func(r objstore.Request) { seen = append(seen, r) }})
	_ = s.Create(t.Context(), "x", []byte("body"))
	_ = s.Create(t.Context(), "x", []byte("body"))
	_, _ = s.Read(t.Context(), "x", 1, 2, nil)
	_, _ = s.Size(t.Context(), "y")
	_ = s.List(t.Context(), "", "", func(objstore.Info) error { return nil })
	_ = s.Delete(t.Context(), "x")
	want := []string{"create ok 4", "create exists 4", "read ok 2", "size not-found 0", "list ok 0", "delete ok 0"}
	for i, r := range seen {
		if got := fmt.Sprintf("%s %s %d", r.Op, r.Outcome, r.Bytes); i >= len(want) || got != want[i] || r.Seconds < 0 {
			t.Errorf("request %d: %s", i, got)
		}
	}
	if len(seen) != len(want) {
		t.Errorf("%d requests, want %d", len(seen), len(want))
	}
}
