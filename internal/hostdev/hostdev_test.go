package hostdev

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/internal/fail"
)

// TestCheckImage: where no image can lie is told from the path alone.
func TestCheckImage(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(at("file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"dangling": "nowhere", "device": "/dev/pollux-nosuchdev", "good": "file"} {
		if err := os.Symlink(to, at(link)); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]struct {
		exit int
		says string
	}{
		at("file"):                     {0, ""},
		at("new"):                      {0, ""},
		at("good"):                     {0, ""},
		dir:                            {0, ""},
		at("none/new"):                 {3, "no directory " + at("none")},
		at("none") + "/":               {3, "no directory"},
		at("file") + "/x":              {8, "not a directory"},
		at("dangling"):                 {3, "a link to nowhere"},
		at("device"):                   {3, "a link to /dev/pollux-nosuchdev"},
		"/dev/pollux-nosuchdev":        {3, "no such device"},
		"/dev/mapper/pollux-nosuchdev": {3, "no such device"},
		"/dev/pollux-vg/data":          {3, "no such device"},
		"/dev/null":                    {2, "neither a regular file nor a block device"},
		"/dev/shm/pollux-new":          {0, ""},
		"nbd+unix:///disk1?socket=/s":  {2, "an NBD export"},
		"nbd://host/disk1":             {2, "an NBD export"},
		"s3://bucket/prefix":           {2, "a URL"},
		"":                             {2, "empty"},
	} {
		err := CheckImage("write", "-o "+path, path)
		if fail.ExitCode(err) != want.exit || err != nil && !strings.Contains(err.Error(), want.says) {
			t.Errorf("%q: %v, want exit status %d and %q", path, err, want.exit, want.says)
		}
		if err != nil && want.exit != 8 && fail.HintOf(err) == "" {
			t.Errorf("%q: %v: no hint", path, err)
		}
	}
}

// TestHeldBy: a process that has a file open is named, and this one is not.
func TestHeldBy(t *testing.T) {
	out := exec.Command("sleep", "60")
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if who := HeldBy(f.Name()); who != "" {
		t.Errorf("held by %s", who)
	}
	if use := UseOf(f.Name()); use != "" {
		t.Errorf("in use: %s", use)
	}
	out.Stdin = f
	if err := out.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Process.Kill(); _ = out.Wait() }()
	if who := HeldBy(f.Name()); who != fmt.Sprintf("process %d (sleep)", out.Process.Pid) {
		t.Errorf("held by %q", who)
	}
}
