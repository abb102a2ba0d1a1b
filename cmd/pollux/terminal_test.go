package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/twin/gc"
)

// TestRestoreHostileNames: who can write the store cannot choose where a restore writes,
// nor what a terminal does. The log itself, and what an older catalog says, still count.
func TestRestoreHostileNames(t *testing.T) {
	for _, name := range []string{"../../x", "/x", "x\x1b[2J", "x\ny", "v/../x"} {
		l, url := restoreLog(t)
		if _, err := gc.Catalog(t.Context(), l.Store, gc.Options{}); err != nil {
			t.Fatal(err)
		}
		numbers, err := catalog.List(t.Context(), l.Store)
		if err != nil {
			t.Fatal(err)
		}
		c, err := catalog.Load(t.Context(), l.Store, numbers[len(numbers)-1])
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.LoadState()
		if err != nil {
			t.Fatal(err)
		}
		v := s.Volumes["v"]
		delete(s.Volumes, "v")
		v.Name = name
		s.Volumes[name] = v
		c.SetState(s)
		c.Number++
		if err := catalog.Create(t.Context(), l.Store, c); err != nil {
			t.Fatal(err)
		}
		top := t.TempDir()
		dir := filepath.Join(top, "a", "b")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := runRestore(t, "g", "--store", url, "-o", dir); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		var files []string
		_ = filepath.WalkDir(top, func(path string, d os.DirEntry, _ error) error {
			if !d.IsDir() {
				files = append(files, strings.TrimPrefix(path, top))
			}
			return nil
		})
		if len(files) != 1 || files[0] != "/a/b/v.img" {
			t.Errorf("%q: wrote %q", name, files)
		}
	}
}

// TestTerminal: errors with other people's text in them cannot begin a line, nor
// command a terminal.
func TestTerminal(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out := cli.NewTerminal(w)
	why := "it belongs to agent x\npollux: all is well\r\x1b[2J"
	cli.PrintError(out, fail.New(fail.Refused, "attach", "g", why).WithHint("ask\nhim\u202e"))
	cli.SendControl(out, "\x1b[H") // no terminal: nothing
	_ = w.Close()
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	want := "pollux: attach g: it belongs to agent x\n  pollux: all is well\\u000d\\u001b[2J\n" +
		"  hint: ask\n  him\\u202e\n"
	if string(got) != want {
		t.Errorf("%q, want %q", got, want)
	}
}
