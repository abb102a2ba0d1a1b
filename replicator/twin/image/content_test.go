package image

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/provenance"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// device is a file of which nobody tells where its holes are, with an error from some
// byte on, if that is not 0.
type device struct {
	*os.File
	bad int64
}

func (d device) Seek(off int64, whence int) (int64, error) {
	if whence == unix.SEEK_DATA {
		return 0, unix.EINVAL
	}
	return d.File.Seek(off, whence)
}

func (d device) ReadAt(b []byte, off int64) (int, error) {
	if d.bad > 0 && off+int64(len(b)) > d.bad {
		return 0, unix.EIO
	}
	return d.File.ReadAt(b, off)
}

// TestAnyData: nothing is called zeros of which not all was looked at.
func TestAnyData(t *testing.T) {
	const size, mib = 40<<20 + 5, int64(1 << 20)
	for _, c := range []struct {
		name             string
		data, bad, bound int64 // -1: none
		found            bool
		end              int64
		fails            bool
	}{
		{"empty", -1, 0, size, false, size, false},
		{"data in the middle", 20 * mib, 0, size, true, 20 * mib, false},
		{"the last byte", size - 1, 0, size, true, 40 * mib, false},
		{"the bound", 20 * mib, 0, 10 * mib, false, 10 * mib, false},
		{"a byte more than the bound", -1, 0, 40 * mib, false, 40 * mib, false},
		{"a bad sector", -1, 30 * mib, size, false, 30 * mib, true},
	} {
		f, err := os.Create(filepath.Join(t.TempDir(), "dev"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		if c.data >= 0 {
			if _, err := f.WriteAt([]byte{1}, c.data); err != nil {
				t.Fatal(err)
			}
		}
		found, end, err := anyData(device{f, c.bad}, size, c.bound)
		if found != c.found || end != c.end || (err != nil) != c.fails {
			t.Errorf("%s: %v, up to %d, %v", c.name, found, end, err)
		}
		if c.bad == 0 { // holes of a file cost nothing
			if found, end, err := anyData(f, size, 2*mib); found != (c.data >= 0) || err != nil || !found &&
				end != size {
				t.Errorf("%s, in a file: %v, up to %d, %v", c.name, found, end, err)
			}
		}
	}
}

// TestLook: what could not be read, or was not, is an objection.
func TestLook(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "dev"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const long = lookBytes + 1<<20
	if err := f.Truncate(long); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		f     content
		size  int64
		doubt string
	}{
		"file":         {f, long, ""},
		"first sector": {device{f, 1}, 8 << 20, "input/output error"},
		"later one":    {device{f, 5 << 20}, 8 << 20, "input/output error"},
	} {
		what, doubt := look(c.f, c.size)
		if (what == zeros) != (c.doubt == "") || (doubt == nil) != (c.doubt == "") ||
			!strings.Contains(fmt.Sprint(doubt), c.doubt) {
			t.Errorf("%s: %s, %v", name, what, doubt)
		}
	}
}

// TestInterruptedObjects: what an interrupted restore left on a device is an objection,
// unless the operator says what is to become of it.
func TestInterruptedObjects(t *testing.T) {
	made := restoreLog(t)
	l, p, _ := restorePlan(t, made, made.Point.LSN)
	path := filepath.Join(t.TempDir(), "dev")
	if err := os.WriteFile(path, make([]byte, restoreBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	tg := &Target{Path: path, Size: restoreBytes, have: restoreBytes, exists: true, device: true}
	defer os.Remove(tg.statePath())
	other := *p.Volume
	other.Number++
	for _, c := range []struct {
		what    string
		left    func() error
		o       Options
		objects string
	}{
		{"nothing", func() error { return nil }, Options{}, ""},
		{"this volume", newSaver(tg, p.Volume, twin.Base{Low: p.LSN, High: p.LSN}).save, Options{}, "of this volume"},
		{"this volume, --resume", nil, Options{Resume: true}, ""},
		{"this volume, --restart", nil, Options{Restart: true}, ""},
		{"another", newSaver(tg, &other, twin.Base{Low: p.LSN, High: p.LSN}).save, Options{}, "of another volume"},
		{"another, --resume", nil, Options{Resume: true}, "of another volume"},
		{"another, --restart", nil, Options{Restart: true}, ""},
		{"what cannot be read", func() error {
			return os.WriteFile(tg.statePath(), []byte("?"), 0o600)
		}, Options{}, "of another volume"},
	} {
		if c.left != nil {
			if err := c.left(); err != nil {
				t.Fatal(c.what, err)
			}
		}
		now := &Target{Path: path, Size: restoreBytes, have: restoreBytes, exists: true, device: true}
		now.Interrupted(p.Volume, &c.o)
		if all := strings.Join(now.Objections, "; "); (all != "") != (c.objects != "") ||
			!strings.Contains(all, c.objects) {
			t.Errorf("%s: %q", c.what, all)
		}
	}
	if _, err := tg.Held(t.Context(), l, &p, ""); !fail.Is(err, fail.Refused) {
		t.Errorf("--from onto half a restore of another volume: %v", err)
	}
}

// TestBackingHint: whoever would restore onto a served volume's backing mostly wants to go
// back in place, and is told of that first.
func TestBackingHint(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v.img")
	if err := os.WriteFile(path, make([]byte, restoreBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(path, provenance.BackingName, []byte("x inode 1 born 0: volume v of host-a"),
		0); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "60")
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd.Stdin = f // and so has it open
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	tg, err := Inspect(path, restoreBytes)
	if err != nil {
		t.Fatal(err)
	}
	hint := fail.HintOf(tg.Refused(true))
	back, end := strings.Index(hint, "Going back"), strings.Index(hint, "pollux volume rm")
	if back < 0 || end < back {
		t.Errorf("hint: %s", hint)
	}
}
