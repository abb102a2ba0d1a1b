package liartest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/liar"
	"github.com/pollux-dr/pollux/internal/s3test"
	"github.com/pollux-dr/pollux/replicator/logtest"
	"github.com/pollux-dr/pollux/replicator/twin/gc"
	"github.com/pollux-dr/pollux/replicator/twin/mount"
)

// What the verbs ask a store for: a lie about anything else is never told to them.
var (
	readers = []string{"get", "list", "any"}
	makers  = append(readers[:len(readers):len(readers)], "put")
	all     = append(makers[:len(makers):len(makers)], "delete")
)

// eachLie runs fn with each kind of lie about some kinds of requests, told a few times and without
// end. mustPass says that the verb has to end right: the lies pass, and none is such that only a
// checksum or another answer of the store shows it.
func eachLie(t *testing.T, about []string,
	fn func(t *testing.T, ctx context.Context, lie *liar.Lie, n int, mustPass bool)) {
	for _, lie := range liar.Lies() {
		if !slices.Contains(about, lie.Of()) {
			continue
		}
		for name, n := range map[string]int{"passing": passing, "for ever": -1} {
			t.Run(lie.Name+"/"+name, func(t *testing.T) {
				t.Parallel()
				ctx, cancel := context.WithTimeout(t.Context(), enough)
				defer cancel()
				fn(t, ctx, lie, n, n > 0 && !lie.Bytes && !lie.Plausible && !lie.Stale)
				if ctx.Err() != nil {
					t.Errorf("not finished within %v", enough)
				}
			})
		}
	}
}

// shared is a log that readers share, each behind a liar of its own.
func shared(t *testing.T) (*s3test.Server, *logtest.Log, string) {
	t.Helper()
	srv := startServer(t)
	l := newLying(t, srv)
	return srv, writeLog(t, l.honest, 1), l.prefix
}

func TestRestore(t *testing.T) {
	srv, log, prefix := shared(t)
	eachLie(t, readers, func(t *testing.T, ctx context.Context, lie *liar.Lie, n int, mustPass bool) {
		l := lyingAt(t, srv, prefix)
		l.Tell(lie, n, "")
		got, lsn, err := restore(ctx, l.verb())
		if err == nil {
			checkImage(t, log, lie, got, lsn)
		} else if mustPass {
			t.Errorf("after %d lies: %v", l.Told(), err)
		}
		checkError(t, err)
	})
}

func TestMount(t *testing.T) {
	srv, log, prefix := shared(t)
	eachLie(t, readers, func(t *testing.T, ctx context.Context, lie *liar.Lie, n int, mustPass bool) {
		l := lyingAt(t, srv, prefix)
		in, p, err := newest(ctx, l.verb())
		if err != nil {
			t.Fatal(err)
		}
		im, err := in.Image(ctx, p, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = im.Close() }()
		d, err := mount.New(im, mount.Options{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = d.Close() }()
		l.Tell(lie, n, "") // only what is read on demand is lied about
		got := make([]byte, volumeSize)
		err = d.ReadAt(ctx, got, 0)
		if err == nil {
			checkImage(t, log, lie, got, p.LSN)
		} else if mustPass {
			t.Errorf("after %d lies: %v", l.Told(), err)
		}
		checkError(t, err)
	})
}

func TestVerify(t *testing.T) {
	srv, _, prefix := shared(t)
	eachLie(t, readers, func(t *testing.T, ctx context.Context, lie *liar.Lie, n int, mustPass bool) {
		l := lyingAt(t, srv, prefix)
		l.Tell(lie, n, "")
		err := verify(ctx, l.verb())
		if err != nil && mustPass {
			t.Errorf("after %d lies: %v", l.Told(), err)
		}
		checkError(t, err)
	})
}

// TestCollect: whatever a collection was told, what it leaves is the whole twin.
func TestCollect(t *testing.T) {
	srv := startServer(t)
	eachLie(t, all, func(t *testing.T, ctx context.Context, lie *liar.Lie, n int, mustPass bool) {
		l := newLying(t, srv)
		log := writeLog(t, l.honest, 2)
		now := log.Clock.Add(time.Hour)
		run := func() error {
			o := gc.CollectOptions{SparseBelow: gc.DefaultSparseBelow}
			o.Dir, o.Now = t.TempDir(), func() time.Time { return now }
			now = now.Add(24 * time.Hour)
			rep, err := gc.Collect(ctx, l.verb(), o)
			if err == nil && rep.Failed.Objects > 0 && mustPass {
				t.Errorf("not deleted: %+v, %s", rep.Failed, rep.FailedWhy)
			}
			return err
		}
		l.Tell(lie, n, "")
		for range 2 { // the second deletes what the first found
			err := run()
			if err != nil && mustPass {
				t.Errorf("after %d lies: %v", l.Told(), err)
			}
			checkError(t, err)
		}
		l.Tell(nil, 0, "")
		for range 2 {
			if err := run(); err != nil {
				t.Errorf("without a lie: %v", err)
			}
		}
		got, lsn, err := restore(ctx, l.honest)
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, log, &liar.Lie{}, got, lsn)
		if err := verify(ctx, l.honest); err != nil {
			t.Error(err)
		}
	})
}

// TestCatalog: whatever the maker of a catalog was told, the log reads as it did, and the
// next catalog is made as soon as the truth is.
func TestCatalog(t *testing.T) {
	srv := startServer(t)
	eachLie(t, makers, func(t *testing.T, ctx context.Context, lie *liar.Lie, n int, mustPass bool) {
		l := newLying(t, srv)
		log := writeLog(t, l.honest, 3)
		l.Tell(lie, n, "")
		_, err := gc.Catalog(ctx, l.verb(), gc.Options{Dir: t.TempDir()})
		if err != nil && mustPass {
			t.Errorf("after %d lies: %v", l.Told(), err)
		}
		checkError(t, err)
		l.Tell(nil, 0, "")
		if _, err := gc.Catalog(ctx, l.honest, gc.Options{Dir: t.TempDir()}); err != nil {
			t.Errorf("without a lie: %v", err)
		}
		got, lsn, err := restore(ctx, l.honest)
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, log, &liar.Lie{}, got, lsn)
		if err := verify(ctx, l.honest); err != nil {
			t.Error(err)
		}
	})
}
