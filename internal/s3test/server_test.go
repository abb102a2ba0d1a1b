package s3test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestServer(t *testing.T) {
	for _, kind := range []string{VersityGW, MinIO} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s, err := StartVerbose(t.Context(), kind, t.TempDir(), func(m string) { t.Log(m) })
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := errors.Join(s.Stop(), s.Stop()); err != nil {
					t.Error(err)
				}
			}()
			for range 2 {
				if err := s.CreateBucket(t.Context(), "bucket"); err != nil {
					t.Fatal(err)
				}
			}
			endpoint, pid := s.Endpoint, s.proc.PID()
			if err := errors.Join(s.Kill(), s.Kill()); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
				t.Errorf("the killed process is there: %v", err)
			}
			if resp, err := http.Get(s.Endpoint); err == nil {
				_ = resp.Body.Close()
				t.Error("the killed server answers")
			}
			if err := s.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			if s.Endpoint != endpoint {
				t.Errorf("endpoint %s after restart, was %s", s.Endpoint, endpoint)
			}
			if _, err := os.Stat(filepath.Join(s.dir, "data", "bucket")); err != nil {
				t.Error("the bucket is gone")
			}
		})
	}
}

func TestVersionsAreThoseOfTools(t *testing.T) {
	tools, err := findSource()
	if err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile(filepath.Join(tools, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for kind, p := range programs {
		if !strings.Contains(string(mod), "\t"+p.module+" "+p.version) {
			t.Errorf("%s: tools/go.mod does not have %s %s", kind, p.module, p.version)
		}
	}
}

func TestNoSource(t *testing.T) {
	t.Setenv("POLLUX_TOOLS_DIR", "")
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Chdir(t.TempDir())
	if _, err := Binary(context.Background(), VersityGW, nil); !errors.Is(err, ErrNoSource) {
		t.Errorf("error %v, want ErrNoSource", err)
	}
	if _, err := Start(context.Background(), "other", t.TempDir()); err == nil {
		t.Error("an unknown kind was started")
	}
}

func TestToolsDir(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("POLLUX_TOOLS_DIR", dir)
	path := filepath.Join(dir, MinIO)
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho no server; exit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := Binary(t.Context(), MinIO, nil); err != nil || got != path {
		t.Errorf("binary %s, %v, want %s", got, err, path)
	}
	_, err := Start(t.Context(), MinIO, t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "no server") {
		t.Errorf("error %v, want the program's output in it", err)
	}
}

// TestDiesWithParent kills a process that runs a server, which is this test's
// program started once more.
func TestDiesWithParent(t *testing.T) {
	const variable = "S3TEST_PARENT_OF"
	if dir := os.Getenv(variable); dir != "" {
		s, err := Start(context.Background(), VersityGW, dir)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("pid %d\n", s.proc.PID())
		select {} // until killed
	}
	if _, err := Binary(t.Context(), VersityGW, func(m string) { t.Log(m) }); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDiesWithParent$")
	cmd.Env = append(os.Environ(), variable+"="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	_, scanErr := fmt.Fscanf(out, "pid %d\n", &pid)
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // killed
	if scanErr != nil {
		t.Fatal(scanErr)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		// A zombie waits for whoever adopted it.
		if err != nil || bytes.Contains(stat, []byte(") Z ")) {
			return
		}
		if time.Now().After(deadline) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatal("the server outlived its parent")
		}
	}
}
