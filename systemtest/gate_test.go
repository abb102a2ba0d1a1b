package systemtest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// gates stand before each member of a cluster and know, from the kernel, which
// process is at the other end of a connection: so they can part any two processes,
// in one direction or in both. What is cut off stalls: nothing is refused, nothing
// is lost, nothing comes through.
type gates struct {
	mu    sync.Mutex
	open  *sync.Cond
	names map[int]string        // by process id
	shut  map[[2]string]bool    // from, to
	held  map[[2]string]int     // how many times something was held up
	conns map[net.Conn]struct{} // all, for the end
	lns   map[string]net.Listener
}

func newGates(t *testing.T) *gates {
	g := &gates{names: map[int]string{}, shut: map[[2]string]bool{}, held: map[[2]string]int{},
		conns: map[net.Conn]struct{}{}, lns: map[string]net.Listener{}}
	g.open = sync.NewCond(&g.mu)
	t.Cleanup(g.close)
	return g
}

// add puts a gate before the process that goes by name and listens at address; it
// returns the gate's address.
func (g *gates) add(t *testing.T, name, address string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.mu.Lock()
	g.lns[name] = l
	g.mu.Unlock()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go g.serve(c, name, address)
		}
	}()
	return l.Addr().String()
}

// call tells who a process is.
func (g *gates) call(pid int, name string) {
	g.mu.Lock()
	g.names[pid] = name
	g.mu.Unlock()
}

// part shuts or opens the way from one process to another.
func (g *gates) part(from, to string, shut bool) {
	g.mu.Lock()
	g.shut[[2]string{from, to}] = shut
	g.mu.Unlock()
	g.open.Broadcast()
}

// heal opens all.
func (g *gates) heal() {
	g.mu.Lock()
	clear(g.shut)
	g.mu.Unlock()
	g.open.Broadcast()
}

// heldUp is how often something was held up so far.
func (g *gates) heldUp() (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, k := range g.held {
		n += k
	}
	return n
}

func (g *gates) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.shut)
	for _, l := range g.lns {
		_ = l.Close()
	}
	for c := range g.conns {
		_ = c.Close()
	}
	g.open.Broadcast()
}

// pass waits while the way from one to the other is shut.
func (g *gates) pass(from, to string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	way := [2]string{from, to}
	if g.shut[way] {
		g.held[way]++
	}
	for g.shut[way] {
		g.open.Wait()
	}
}

func (g *gates) serve(client net.Conn, to, address string) {
	defer client.Close()
	from := g.whose(client.RemoteAddr().(*net.TCPAddr).Port)
	g.pass(from, to)
	server, err := net.DialTimeout("tcp", address, 3*time.Second)
	if err != nil {
		return
	}
	defer server.Close()
	g.mu.Lock()
	g.conns[client], g.conns[server] = struct{}{}, struct{}{}
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		delete(g.conns, client)
		delete(g.conns, server)
		g.mu.Unlock()
	}()
	var wg sync.WaitGroup
	forward := func(dst, src net.Conn) {
		buf := make([]byte, 64<<10)
		for {
			n, err := src.Read(buf)
			if n > 0 {
				g.pass(from, to) // a connection serves whoever made it, both ways
				if _, werr := dst.Write(buf[:n]); werr != nil {
					err = werr
				}
			}
			if err != nil {
				_ = dst.Close()
				_ = src.Close()
				return
			}
		}
	}
	wg.Go(func() { forward(server, client) })
	wg.Go(func() { forward(client, server) })
	wg.Wait()
}

// whose finds the process that has a local port of loopback.
func (g *gates) whose(port int) string {
	inode := inodeOf(port)
	if inode == "" {
		return ""
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for pid, name := range g.names {
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, fd := range fds {
			if to, err := os.Readlink(fd); err == nil && to == "socket:["+inode+"]" {
				return name
			}
		}
	}
	return ""
}

// inodeOf is the inode of the socket whose own port this is.
func inodeOf(port int) string {
	f, err := os.Open("/proc/net/tcp")
	if err != nil {
		return ""
	}
	defer f.Close()
	want := fmt.Sprintf(":%04X", port)
	for r := bufio.NewReader(f); ; {
		line, err := r.ReadString('\n')
		if fields := strings.Fields(line); len(fields) > 9 && strings.HasSuffix(fields[1], want) {
			return fields[9]
		}
		if err == io.EOF || err != nil {
			return ""
		}
	}
}
