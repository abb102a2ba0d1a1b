package objstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/objstore/objstoretest"
)

// crashRun creates objects and cuts the power after every operation on the file
// system. It returns the first promise found broken, and the number of crashes.
func crashRun(t *testing.T, skip func(op string) bool) (crashes int, broken error) {
	t.Helper()
	mem := vfs.NewCrashableMem()
	bodies := map[string][]byte{}
	var acked []string
	crash := func(op string) {
		for seed := range uint64(4) {
			cfg := vfs.CrashCloneCfg{RNG: rand.New(rand.NewPCG(seed, uint64(crashes)))}
			cfg.UnsyncedDataPercent = []int{0, 30, 70, 100}[seed]
			crashes++
			if err := checkCrashed(t.Context(), mem.CrashClone(cfg), bodies, acked); err != nil && broken == nil {
				broken = fmt.Errorf("crash after %s, %d%% unsynced: %w", op, cfg.UnsyncedDataPercent, err)
			}
		}
	}
	s := open(t, "file:///store", objstore.Options{FS: &opFS{FS: mem, after: crash, skip: skip}})
	defer func() { _ = s.Close() }()
	for i, name := range []string{"log/0", "log/1", "top", "a/b/c", "a/b/d", "log/2", "log/1"} {
		if _, again := bodies[name]; again {
			if err := s.Create(t.Context(), name, []byte("other")); !fail.Is(err, fail.Exists) {
				t.Fatalf("create %s again: %v", name, err)
			}
			continue
		}
		bodies[name] = objstoretest.Bytes(uint64(i), 1+i*90_000)
		if err := s.Create(t.Context(), name, bodies[name]); err != nil {
			t.Fatal(err)
		}
		acked = append(acked, name)
		crash("create " + name)
	}
	return crashes, broken
}

func checkCrashed(ctx context.Context, fs vfs.FS, bodies map[string][]byte, acked []string) error {
	s, err := objstore.Open(ctx, "file:///store", objstore.Options{FS: fs})
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	there := map[string]bool{}
	if err := s.List(ctx, "", "", func(i objstore.Info) error {
		there[i.Name] = true
		b, err := s.Read(ctx, i.Name, 0, -1, nil)
		if err == nil && !bytes.Equal(b, bodies[i.Name]) {
			err = fmt.Errorf("%s has %d bytes, not what was created", i.Name, len(b))
		}
		return err
	}); err != nil {
		return err
	}
	for _, name := range acked {
		if !there[name] {
			return fmt.Errorf("%s was created and is gone", name)
		}
	}
	return nil
}

func TestFileCrash(t *testing.T) {
	crashes, broken := crashRun(t, nil)
	if broken != nil {
		t.Error(broken)
	}
	if crashes < 100 {
		t.Errorf("only %d crashes", crashes)
	}
}

// TestFileCrashFinds shows that TestFileCrash notices what it is there for.
func TestFileCrashFinds(t *testing.T) {
	for _, mutant := range []string{"sync", "syncdir"} {
		if _, broken := crashRun(t, func(op string) bool { return op == mutant }); broken == nil {
			t.Errorf("a store without %s passes", mutant)
		} else {
			t.Logf("without %s: %v", mutant, broken)
		}
	}
}

// TestFileExistsIsDurable: another writer's create got as far as its link.
func TestFileExistsIsDurable(t *testing.T) {
	mem := vfs.NewCrashableMem()
	links := 0
	fs := &opFS{FS: mem, after: func(op string) {
		if op == "link" {
			links++
		}
	}}
	fs.before = func(op string) error {
		if op == "syncdir" && links == 1 {
			links++
			return syscall.EIO
		}
		return nil
	}
	s := open(t, "file:///store", objstore.Options{FS: fs})
	body := []byte("body")
	if err := s.Create(t.Context(), "log/1", body); !fail.Is(err, fail.Retry) {
		t.Fatalf("create whose last sync fails: %v", err)
	}
	if err := s.Create(t.Context(), "log/1", body); !fail.Is(err, fail.Exists) {
		t.Fatalf("create again: %v", err)
	}
	if err := checkCrashed(t.Context(), mem.CrashClone(vfs.CrashCloneCfg{}), map[string][]byte{"log/1": body},
		[]string{"log/1"}); err != nil {
		t.Error(err)
	}
}

// TestFileReadIsDurable: what was read must not be gone after a power cut.
func TestFileReadIsDurable(t *testing.T) {
	url := "file://" + t.TempDir() + "/store"
	syncs, reads := 0, 0
	reader := open(t, url, objstore.Options{FS: &opFS{FS: vfs.Default, after: func(op string) {
		if op == "syncdir" {
			syncs++
		}
	}}})
	syncs = 0
	writer := open(t, url, objstore.Options{FS: &opFS{FS: vfs.Default, after: func(op string) {
		if op != "link" {
			return
		}
		reads++
		if b, err := reader.Read(t.Context(), "log/1", 0, -1, nil); err != nil || string(b) != "body" {
			t.Errorf("read between link and sync: %q, %v", b, err)
		}
	}}})
	if err := writer.Create(t.Context(), "log/1", []byte("body")); err != nil {
		t.Fatal(err)
	}
	if reads != 1 || syncs != 1 {
		t.Errorf("%d reads before the sync made %d syncs, want 1 and 1", reads, syncs)
	}
	if _, err := reader.Read(t.Context(), "log/1", 0, -1, nil); err != nil || syncs != 1 {
		t.Errorf("a later read: %v, %d syncs", err, syncs)
	}
}

func TestFileErrors(t *testing.T) {
	for errno, kind := range map[error]fail.Kind{
		syscall.ENOSPC: fail.Full, syscall.EDQUOT: fail.Full, syscall.EACCES: fail.Denied, syscall.EPERM: fail.Denied,
		syscall.EROFS: fail.Denied, syscall.EIO: fail.Retry, syscall.ESTALE: fail.Retry,
	} {
		for _, at := range []string{"create", "write", "sync", "link", "syncdir"} {
			armed := false
			fs := &opFS{FS: vfs.Default, before: func(op string) error {
				if armed && op == at {
					return &os.PathError{Op: op, Path: "x", Err: errno}
				}
				return nil
			}}
			dir := t.TempDir()
			s := open(t, "file://"+dir+"/store", objstore.Options{FS: fs})
			armed = true
			if err := s.Create(t.Context(), "log/1", []byte("x")); !fail.Is(err, kind) || !errors.Is(err, errno) {
				t.Errorf("%v at %s: %v, kind %v, want %v", errno, at, err, fail.KindOf(err), kind)
			}
			armed = false
			if left, err := os.ReadDir(filepath.Join(dir, "store", ".tmp")); (err != nil && !os.IsNotExist(err)) ||
				len(left) != 0 {
				t.Errorf("%v at %s: %d temporary files are left, %v", errno, at, len(left), err)
			}
		}
	}
}

func TestFileLeftovers(t *testing.T) {
	dir := t.TempDir()
	s := open(t, "file://"+dir, objstore.Options{})
	if err := s.Create(t.Context(), "log/1", []byte("x")); err != nil {
		t.Fatal(err)
	}
	old, live := filepath.Join(dir, ".tmp", "old"), filepath.Join(dir, ".tmp", "live")
	for _, path := range []string{old, live} {
		if err := os.WriteFile(path, []byte("part"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-2 * time.Hour)
	for _, path := range []string{old, filepath.Join(dir, "log", "1")} {
		if err := os.Chtimes(path, past, past); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, "file://"+dir, objstore.Options{})
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old temporary file: %v", err)
	}
	if _, err := os.Stat(live); err != nil {
		t.Errorf("the live temporary file: %v", err)
	}
	if b, err := s.Read(t.Context(), "log/1", 0, -1, nil); err != nil || string(b) != "x" {
		t.Errorf("the object: %q, %v", b, err)
	}
}

// TestFileTempTaken: another store's Open takes a live temporary file away.
func TestFileTempTaken(t *testing.T) {
	dir := t.TempDir()
	fs := &opFS{FS: vfs.Default}
	s := open(t, "file://"+dir, objstore.Options{FS: fs})
	fs.before = func(op string) error {
		if op != "link" {
			return nil
		}
		fs.before = nil
		names, err := vfs.Default.List(dir + "/.tmp")
		if err != nil || len(names) != 1 {
			return fmt.Errorf("%d temporary files, %w", len(names), err)
		}
		return vfs.Default.Remove(dir + "/.tmp/" + names[0])
	}
	if err := s.Create(t.Context(), "log/1", []byte("x")); !fail.Is(err, fail.Retry) {
		t.Fatalf("create: %v", err)
	}
	if err := s.Create(t.Context(), "log/1", []byte("x")); err != nil {
		t.Fatalf("create again: %v", err)
	}
}

func TestOpenInvalid(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	for _, url := range []string{"", "dir", "/dir", "file://", "file:///", "file://host/dir", "file:relative",
		"http://x/y", "s3://", "s3:///x",
		"s3://bucket:80/x", "s3://id:geheim@bucket/x", "s3://bucket/a//b", "s3://bucket/x?y=geheim",
		"s3://geheim:%zz@b/x"} {
		_, err := objstore.Open(t.Context(), url, objstore.Options{})
		if !fail.Is(err, fail.Invalid) {
			t.Errorf("open %q: %v", url, err)
		} else if bytes.Contains([]byte(err.Error()+fail.HintOf(err)), []byte("geheim")) {
			t.Errorf("open %q shows the secret: %v", url, err)
		}
	}
	for _, endpoint := range []string{"host", "host:80", "ftp://host", "http://", "http://host/path",
		"http://geheim@host", "http://host?x"} {
		_, err := objstore.Open(t.Context(), "s3://bucket", objstore.Options{Endpoint: endpoint})
		if !fail.Is(err, fail.Invalid) || bytes.Contains([]byte(err.Error()), []byte("geheim")) {
			t.Errorf("endpoint %q: %v", endpoint, err)
		}
	}
}

// TestOpenUnmounted: a directory whose parent is missing may come with a mount.
func TestOpenUnmounted(t *testing.T) {
	if _, err := objstore.Open(t.Context(), "file:///no/such/parent/dir", objstore.Options{}); !fail.Is(err,
		fail.NotFound) || fail.HintOf(err) == "" {
		t.Errorf("%v, hint %q", err, fail.HintOf(err))
	}
}
