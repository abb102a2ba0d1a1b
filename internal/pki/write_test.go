package pki

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/atomicfile"
	"github.com/pollux-dr/pollux/internal/fail"
)

// TestIssueReplacesNothingSilently: a key that is there stays, unless it is to go.
func TestIssueReplacesNothingSilently(t *testing.T) {
	dir, out, now := t.TempDir(), t.TempDir(), time.Now()
	if err := InitCA(dir, now); err != nil {
		t.Fatal(err)
	}
	p := Peer{Agent, "a"}
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(out, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if _, _, err := Issue(dir, out, p, false, now); err != nil {
		t.Fatal(err)
	}
	key, cert := read("agent-a.key"), read("agent-a.pem")
	for _, gone := range []string{"", "agent-a.pem"} { // also where only the key is left
		if gone != "" {
			_ = os.Remove(filepath.Join(out, gone))
		}
		if _, _, err := Issue(dir, out, p, false, now); !fail.Is(err, fail.Exists) || fail.HintOf(err) == "" {
			t.Errorf("again: %v", err)
		}
		if !bytes.Equal(read("agent-a.key"), key) {
			t.Fatal("the key was replaced")
		}
	}
	if _, _, err := Issue(dir, out, p, true, now); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(read("agent-a.key"), key) || bytes.Equal(read("agent-a.pem"), cert) {
		t.Error("it was not replaced")
	}
	f := Files{Cert: filepath.Join(out, "agent-a.pem"), Key: filepath.Join(out, "agent-a.key"),
		CA: filepath.Join(out, CAFile)}
	if _, err := f.Check(); err != nil {
		t.Error(err)
	}
	_ = os.Remove(filepath.Join(dir, CAKeyFile))
	if err := InitCA(dir, now); !fail.Is(err, fail.Exists) {
		t.Errorf("an authority over another's certificate: %v", err)
	}
}

// TestPreparedTemporaryFile: files that somebody has made in time do not get the key.
func TestPreparedTemporaryFile(t *testing.T) {
	dir, out, elsewhere, now := t.TempDir(), t.TempDir(), t.TempDir(), time.Now()
	if err := InitCA(dir, now); err != nil {
		t.Fatal(err)
	}
	theirs := filepath.Join(elsewhere, "theirs")
	if err := os.WriteFile(theirs, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(theirs, filepath.Join(out, "agent-a.key"+atomicfile.TempSuffix)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Issue(dir, out, Peer{Agent, "a"}, false, now); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(theirs); err != nil || len(b) > 0 {
		t.Errorf("the key went to a file of somebody else's: %d bytes, %v", len(b), err)
	}
	all, err := filepath.Glob(filepath.Join(out, ".*"))
	if err != nil || len(all) > 0 {
		t.Errorf("left behind: %v, %v", all, err)
	}
}
