package crashfs

import (
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestCloneAmongOperations clones the filesystem while every operation on names
// runs beside it. MemFS takes a lock twice in some of them, which a clone in
// between turns into a deadlock.
func TestCloneAmongOperations(t *testing.T) {
	mem := vfs.NewCrashableMem()
	fs := &FS{FS: mem}
	const category = vfs.WriteCategoryUnspecified
	create := func(name string) {
		f, err := fs.Create(name, category)
		if err != nil {
			t.Error(err)
			return
		}
		_ = f.Close()
	}
	create("/reused")
	ops := map[string]func(){
		"lock": func() {
			l, err := fs.Lock("/lock")
			if err != nil {
				t.Error(err)
				return
			}
			_ = l.Close()
		},
		"link": func() {
			create("/a")
			_ = fs.Link("/a", "/b")
			_ = fs.Remove("/b")
		},
		"reuse": func() {
			if f, err := fs.ReuseForWrite("/reused", "/reused", category); err == nil {
				_ = f.Close()
			}
		},
		"open": func() {
			if f, err := fs.OpenReadWrite("/c", category); err == nil {
				_ = f.Close()
			}
		},
		"sync": func() {
			if d, err := fs.OpenDir("/"); err == nil {
				_ = d.Sync()
				_ = d.Close()
			}
		},
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for name, op := range ops {
		wg.Go(func() {
			for range 20_000 {
				op()
			}
			t.Logf("%s is through", name)
		})
	}
	go func() {
		wg.Wait()
		close(done)
	}()
	deadline := time.After(time.Minute)
	for {
		select {
		case <-done:
			return
		case <-deadline:
			t.Fatal("an operation on names is stuck with a clone")
		default:
			fs.Quiet(func() { mem.CrashClone(vfs.CrashCloneCfg{}) })
		}
	}
}
