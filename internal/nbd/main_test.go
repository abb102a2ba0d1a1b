package nbd

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"go.uber.org/goleak"

	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbdclient"
)

// serveFileEnv makes the test binary serve a file on a socket, so that
// benchmarks and judges can have the server in a process of its own.
const serveFileEnv = "POLLUX_TEST_NBD_SERVE"

func TestMain(m *testing.M) {
	if path := os.Getenv(serveFileEnv); path != "" {
		if err := serveFile(path, path+".sock"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func serveFile(path, socket string) error {
	dev, err := block.OpenFile(path, false)
	if err != nil {
		return err
	}
	defer func() { _ = dev.Close() }()
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	s := New(Options{Exports: exports{"disk": dev}})
	defer func() { _ = s.Close() }()
	return s.Serve(ctx, l)
}

// exports are devices by name.
type exports map[string]block.Device

func (e exports) Open(_ context.Context, name string) (block.Device, error) {
	if name == "" && len(e) == 1 {
		for _, d := range e {
			return d, nil
		}
	}
	if d, ok := e[name]; ok {
		return d, nil
	}
	return nil, fail.New(fail.NotFound, "open export", name, "no such export")
}

func (e exports) List(context.Context) []Export {
	var out []Export
	for name, d := range e {
		out = append(out, ExportOf(name, d))
	}
	return out
}

// serve starts a server on a unix socket and returns the server and the
// socket's path. It ends with the test.
func serve(t testing.TB, opts Options) (*Server, string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, opts, l), socket
}

func serveOn(t testing.TB, opts Options, l net.Listener) *Server {
	t.Helper()
	s := New(opts)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(context.Background(), l); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(func() {
		_ = s.Close()
		wg.Wait()
	})
	return s
}

// dial connects our own client; it is closed with the test.
func dial(t testing.TB, socket, export string) *nbdclient.Conn {
	t.Helper()
	c, err := nbdclient.DialAddr(context.Background(), "unix", socket, export, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// tempFile makes a file of sizeBytes zeros, all hole.
func tempFile(t testing.TB, sizeBytes int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, sizeBytes); err != nil {
		t.Fatal(err)
	}
	return path
}
