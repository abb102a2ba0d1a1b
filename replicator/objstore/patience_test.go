package objstore_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// TestPatience: what ends an operation is time without progress, of its own.
func TestPatience(t *testing.T) {
	const first, then = 10 * time.Second, 5 * time.Minute
	clk := &clock{}
	faulty := objstore.WithFaults(openMem(t), 1, objstore.Faults{})
	defer func() { _ = faulty.Close() }()
	s := objstore.WithRetry(faulty, objstore.Policy{Jitter: -1, Clock: clk, Patience: func(reached bool) time.Duration {
		if reached {
			return then
		}
		return first
	}})
	read := func() (time.Duration, error) {
		start := clk.now
		_, err := s.Read(t.Context(), "x", 0, -1, nil)
		return clk.now.Sub(start), err
	}
	away := objstore.Faults{Errors: 1}
	faulty.Set(away)
	if took, err := read(); !fail.Is(err, fail.Retry) || took < first || took > 2*first {
		t.Errorf("a store that never answered: %v after %v", err, took)
	}
	faulty.Set(objstore.Faults{})
	if err := s.Create(t.Context(), "x", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for range 3 { // each operation has its own
		faulty.Set(away)
		if took, err := read(); !fail.Is(err, fail.Retry) || took < then || took > then+20*time.Second ||
			!strings.Contains(err.Error(), "no progress within 5m0s") {
			t.Errorf("a store that has answered: %v after %v", err, took)
		}
	}
	faulty.Set(objstore.Faults{Errors: 0.7}) // many fail in all, none for long
	for range 200 {
		if _, err := read(); err != nil {
			t.Fatal(err)
		}
	}
}

// halting gives a few names of a list at a time, and takes a minute for it.
type halting struct {
	objstore.Store
	clk *clock
}

func (h *halting) List(ctx context.Context, prefix, after string, fn func(objstore.Info) error) error {
	n := 0
	stop := fail.New(fail.Retry, "list", "", "cut")
	return h.Store.List(ctx, prefix, after, func(i objstore.Info) error {
		if n++; n > 2 {
			h.clk.now = h.clk.now.Add(time.Minute)
			return stop
		}
		return fn(i)
	})
}

// TestPatienceOfList: a list that goes on is progress.
func TestPatienceOfList(t *testing.T) {
	inner := openMem(t)
	for i := range 40 {
		if err := inner.Create(t.Context(), fmt.Sprintf("log/%020d", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	clk := &clock{}
	s := objstore.WithRetry(&halting{inner, clk},
		objstore.Policy{Clock: clk, Patience: func(bool) time.Duration { return 3 * time.Minute }})
	n := 0
	if err := s.List(t.Context(), "log/", "", func(objstore.Info) error { n++; return nil }); err != nil || n != 40 {
		t.Errorf("%d names, %v", n, err)
	}
}

func TestReread(t *testing.T) {
	damaged := fail.New(fail.Damaged, "", "", "x")
	for _, tt := range []struct {
		answers []error
		want    error
	}{
		{[]error{nil}, nil},
		{[]error{damaged, nil}, nil},
		{[]error{damaged, damaged}, damaged},
		{[]error{fail.New(fail.NotFound, "", "", "x")}, fail.New(fail.NotFound, "", "", "x")},
	} {
		n := 0
		err := objstore.Reread(func() error { n++; return tt.answers[n-1] })
		if fail.KindOf(err) != fail.KindOf(tt.want) || n != len(tt.answers) {
			t.Errorf("%v: %v after %d reads", tt.answers, err, n)
		}
	}
}
