package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFsync(t *testing.T) {
	dir := t.TempDir()
	h := Host{StateDir: filepath.Join(dir, "not", "there", "yet")}
	r := h.fsync(t.Context())
	if r.Level == Fail || !strings.Contains(r.Text, dir) {
		t.Errorf("%v %v", r, r.Values)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left in the state directory: %v, %v", left, err)
	}
}

func TestSites(t *testing.T) {
	for level, h := range map[Level]Host{
		OK:   {Site: "here", RequiredSites: []string{"here", "there"}},
		Warn: {Site: "here", RequiredSites: []string{"here", "here"}},
	} {
		if r := h.sites(t.Context()); r.Level != level || (level == Warn) != (r.Hint != "") {
			t.Errorf("%+v: %v", h, r)
		}
	}
}

func TestSpace(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "1.wal"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	h := Host{StateDir: dir, WALBudget: 1 << 20}
	if r := h.space(t.Context()); r.Level != OK || r.Values["needed_bytes"] != int64(0) {
		t.Errorf("%v %v", r, r.Values)
	}
	h.JournalBudget = 1 << 60
	if r := h.space(t.Context()); r.Level == OK || r.Hint == "" {
		t.Errorf("%v", r)
	}
}

func TestArena(t *testing.T) {
	h := Host{RuntimeDir: "/proc/self", MemoryBytes: 1 << 20}
	if r := h.arena(t.Context()); r.Level != Fail || !strings.Contains(r.Text, "not on a tmpfs") {
		t.Errorf("%v", r)
	}
	h = Host{RuntimeDir: "/dev/shm", MemoryBytes: 1 << 20} // everybody's
	if r := h.arena(t.Context()); r.Level != Fail || !strings.Contains(r.Text, "written to by others") || r.Hint == "" {
		t.Errorf("%v", r)
	}
	h = Host{RuntimeDir: "/dev/shm/of-nobody", MemoryBytes: 1 << 60}
	if r := h.arena(t.Context()); r.Level != Fail || r.Hint == "" {
		t.Errorf("%v", r)
	}
}

func TestLimits(t *testing.T) {
	h := Host{MaxConnections: 1 << 40}
	if r := h.files(t.Context()); r.Level != Fail || !strings.Contains(r.Hint, "LimitNOFILE") {
		t.Errorf("%v", r)
	}
	if all := CheckLimits(t.Context(), &Host{}, func(Result) {}); len(all) != 3 {
		t.Errorf("%v", all)
	}
}

func TestSlowStart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "slow")
	for _, tt := range []struct {
		content string
		remote  bool
		want    Level
	}{{"", true, OK}, {"0\n", true, OK}, {"1\n", false, OK}, {"1\n", true, Warn}} {
		if tt.content != "" {
			if err := os.WriteFile(file, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		h := Host{Remote: tt.remote}
		if r := h.judgeSlowStart(file); r.Level != tt.want || (r.Hint != "") != (tt.want == Warn) {
			t.Errorf("%q remote %v: %v", tt.content, tt.remote, r)
		}
	}
}

func TestQuantile(t *testing.T) {
	var d []time.Duration
	for i := range 100 {
		d = append(d, time.Duration(99-i)*time.Millisecond)
	}
	if a, b, c := quantile(d, 0.5), quantile(d, 0.99), quantile(nil, 0.5); a != 50*time.Millisecond ||
		b != 99*time.Millisecond || c != 0 {
		t.Errorf("%v %v %v", a, b, c)
	}
	for n, want := range map[int64]string{5: "5 B", 64 << 10: "64.0 KiB", 3 << 29: "1.5 GiB"} {
		if size(n) != want {
			t.Errorf("%d: %s", n, size(n))
		}
	}
}
