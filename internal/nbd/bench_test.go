package nbd

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/nbdclient"
)

const benchBytes = 256 << 20

// BenchmarkServer compares this server over block.File with nbdkit's file
// plugin, each in a process of its own, on the same kind of file.
func BenchmarkServer(b *testing.B) {
	for _, w := range []struct {
		op    nbdclient.Op
		size  int
		depth int
	}{
		{nbdclient.Write, 4 << 10, 1},
		{nbdclient.Write, 4 << 10, 16},
		{nbdclient.Write, 64 << 10, 16},
		{nbdclient.Write, 1 << 20, 4},
		{nbdclient.Read, 4 << 10, 1},
		{nbdclient.Read, 4 << 10, 16},
		{nbdclient.Read, 1 << 20, 4},
	} {
		for _, server := range []string{"pollux", "nbdkit"} {
			b.Run(fmt.Sprintf("%v-%dk-qd%d/%s", w.op, w.size>>10, w.depth, server), func(b *testing.B) {
				c := benchServer(b, server)
				run(b, c, w.op, w.size, w.depth, b.N)
			})
		}
	}
}

// run keeps depth requests in flight until n are done.
func run(b *testing.B, c *nbdclient.Conn, op nbdclient.Op, size, depth, n int) {
	rnd := rand.New(rand.NewPCG(1, 2))
	blocks := c.Size() / int64(size)
	var mu sync.Mutex
	var wg sync.WaitGroup
	left := n
	next := func(r *nbdclient.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		r.Off = rnd.Int64N(blocks) * int64(size)
		left--
		return left >= 0
	}
	b.SetBytes(int64(size))
	b.ResetTimer()
	for range depth {
		r := &nbdclient.Request{Op: op, Data: make([]byte, size)}
		for i := range r.Data {
			r.Data[i] = byte(i) | 1
		}
		wg.Add(1)
		r.Done = func(r *nbdclient.Request) {
			if r.Err != nil {
				b.Error(r.Err)
			} else if next(r) && c.Submit(r) == nil {
				return
			}
			wg.Done()
		}
		if !next(r) || c.Submit(r) != nil {
			wg.Done()
		}
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "op/s")
}

func benchServer(b *testing.B, kind string) *nbdclient.Conn {
	b.Helper()
	path := filepath.Join(b.TempDir(), "d")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		b.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	junk := make([]byte, 1<<20)
	for i := range junk {
		junk[i] = byte(i) | 1
	}
	for range benchBytes >> 20 {
		if _, err := f.Write(junk); err != nil {
			b.Fatal(err)
		}
	}
	_ = f.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveFileEnv+"="+path)
	if kind == "nbdkit" {
		cmd = exec.Command("nbdkit", "-f", "-U", path+".sock", "file", path)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
	})
	for range 500 {
		if nc, err := net.Dial("unix", path+".sock"); err == nil {
			_ = nc.Close()
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	c, err := nbdclient.DialAddr(context.Background(), "unix", path+".sock", "", nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	return c
}
