package golden

import (
	"bytes"
	"os"
	"testing"
)

// TestKept: a missing vector is written only when asked for, and none is written twice.
func TestKept(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv(addVariable, "add")
	for _, name := range []string{"a", "sub/b.zst"} {
		if got := Kept(t, name, func() []byte { return []byte("first") }); string(got) != "first" {
			t.Fatalf("%s: %q", name, got)
		}
		if got := Kept(t, name, func() []byte { return []byte("second") }); string(got) != "first" {
			t.Fatalf("%s was written again: %q", name, got)
		}
	}
	b, err := os.ReadFile(Dir + "/sub/b.zst")
	if err != nil || bytes.Contains(b, []byte("first")) && len(b) == 5 {
		t.Errorf("it is not compressed: %q, %v", b, err)
	}
	files := map[string][]byte{"x": []byte("1"), "y": nil}
	got := Files(t, "dir.tar.zst", func() map[string][]byte { return files })
	if len(got) != 2 || string(got["x"]) != "1" {
		t.Errorf("%q", got)
	}
}
