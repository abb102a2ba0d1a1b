package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// TestCloneOntoFile: a clone of a mount overwrites nothing.
func TestCloneOntoFile(t *testing.T) {
	_, url := restoreLog(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	sock := filepath.Join(dir, "s")
	m := newMount()
	m.SetArgs([]string{"v", "--store", url, "--nbd", sock, "--json"})
	var o bytes.Buffer
	m.SetOut(&o)
	m.SetErr(&bytes.Buffer{})
	done := make(chan error, 1)
	go func() { done <- m.ExecuteContext(ctx) }()
	for range 100 {
		if _, err := os.Stat(sock); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	backing := filepath.Join(dir, "precious.img")
	_ = os.WriteFile(backing, []byte("precious"), 0o600)
	var f cloneFlags
	f.backing = backing
	c := newClone()
	c.SetContext(t.Context())
	c.SetErr(&bytes.Buffer{})
	err := f.copyMount(c, "nbd+unix:///v?socket="+sock, &cloneReport{})
	got, _ := os.ReadFile(backing)
	if !fail.Is(err, fail.Refused) || string(got) != "precious" {
		t.Errorf("onto a file: %v; it holds %d bytes", err, len(got))
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
