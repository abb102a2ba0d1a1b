package journalnode

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/journal"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

// options are of a journal that is alone, with a target below dir.
func options(dir string) Options {
	unlimited := 0.0
	return Options{FS: vfs.Default, Logger: slog.New(slog.DiscardHandler),
		Observe: func(string) func(objstore.Request) { return nil },
		Journal: journal.Options{Dir: filepath.Join(dir, "journal"), Site: "here", Heartbeat: time.Hour},
		Targets: []config.Target{{Name: "x", Site: "there", URL: "file://" + filepath.Join(dir, "store"),
			Requests: config.Requests{Rate: &unlimited, Burst: 1}}}}
}

// run opens a host and uploads until the test ends.
func run(t *testing.T, o Options) (h *Host, stop func()) {
	t.Helper()
	h, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.Run(ctx)
	}()
	return h, func() {
		t.Helper()
		cancel()
		<-done
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
}

// until waits for what the target's figures say.
func until(t *testing.T, h *Host, what string, ok func(change.TargetInfo) bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(h.Targets()[0]); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s does not come: %+v", what, h.Targets()[0])
		}
	}
}

// TestTargets: what is told of a target is where its log stands, and of its site what the
// journal knows; it goes on over a restart, and what fails then delays, no more.
func TestTargets(t *testing.T) {
	dir := t.TempDir()
	h, stop := run(t, options(dir))
	if _, err := h.Propose(state.KindGroupPut, state.Group{Name: "g"}); err != nil {
		t.Fatal(err)
	}
	all := func(x change.TargetInfo) bool { return x.Index == h.LastIndex() && x.Error == "" && x.LagSeconds == 0 }
	until(t, h, "the command in the store", all)
	h.NoteCatalog("x", change.CatalogInfo{Position: 7})
	x := h.Targets()[0]
	if x.Site != "there" || x.Objects == 0 || x.Position < 2 || x.Catalog == nil || x.Catalog.Position != 7 {
		t.Errorf("%+v", x)
	}
	stop()

	store := filepath.Join(dir, "store")
	if err := os.Rename(store, store+"-away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(store, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h, stop = run(t, options(dir))
	until(t, h, "the store's error", func(x change.TargetInfo) bool { return x.Error != "" && !x.Stopped })
	if _, err := h.Propose(state.KindGroupPut, state.Group{Name: "h"}); err != nil {
		t.Errorf("while the store is away: %v", err)
	}
	if err := os.Remove(store); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(store+"-away", store); err != nil {
		t.Fatal(err)
	}
	until(t, h, "the rest in the store", all)
	stop()
}

// TestFirstStart: a store that is not there at the very first start is a mistake in a file.
func TestFirstStart(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "store"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h, err := Open(t.Context(), options(dir))
	if err == nil {
		_ = h.Close()
	}
	if err == nil || fail.Is(err, fail.Internal) {
		t.Errorf("%v", err)
	}
}
