package systemtest

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbdclient"
)

// chains write counters on two hosts in turn: n to the first, and only when that is
// acknowledged n to the second. In every consistent point the second is at most as
// far as the first, and at most one behind.
type chains struct {
	t       *testing.T
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	mu      sync.Mutex
	slowest time.Duration
	written int
}

const chainCount = 6

func startChains(t *testing.T, first, second func() *nbdclient.Conn) *chains {
	ctx, cancel := context.WithCancel(t.Context())
	x := &chains{t: t, cancel: cancel}
	for i := range chainCount {
		a, b := first(), second()
		x.wg.Go(func() {
			block := make([]byte, 4096)
			for n := uint64(1); ctx.Err() == nil; n++ {
				binary.LittleEndian.PutUint64(block, n)
				for _, c := range []*nbdclient.Conn{a, b} {
					start := time.Now()
					if err := c.WriteAt(ctx, block, int64(i)*4096, 0); err != nil {
						if ctx.Err() == nil {
							t.Errorf("chain %d: %v", i, err)
						}
						return
					}
					x.mu.Lock()
					x.slowest, x.written = max(x.slowest, time.Since(start)), x.written+1
					x.mu.Unlock()
				}
			}
		})
	}
	return x
}

func (x *chains) stop() { x.cancel(); x.wg.Wait() }

// reset returns the slowest write since the last call.
func (x *chains) reset() time.Duration {
	x.mu.Lock()
	defer x.mu.Unlock()
	d := x.slowest
	x.slowest = 0
	return d
}

// TestMarkAcrossHosts: a bookmark of a group with volumes on two hosts is one point,
// under writes that depend on each other; one that not all hosts could hold for is
// none, and holds nobody up for long.
func TestMarkAcrossHosts(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	c := newCluster(t, 3)
	c.secure()
	c.form()
	one := newSite(t, siteConf{name: "host1", journal: c.addresses(), url: c.store, more: c.tls("agent", "host1")})
	two := newSite(t, siteConf{name: "host2", journal: c.addresses(), url: c.store, more: c.tls("agent", "host2")})
	one.mustStart()
	two.mustStart()
	one.volume("g", "a", "1MiB")
	o := two.pollux("volume", "create", "b", "--group", "g", "--size", "1MiB", "--json")
	wantError(t, "a volume in another's group", o, fail.Denied)
	one.verb("group", "set", "g", "--agents", "host2")
	until(t, time.Minute, "host2 may have a volume in g", func() error {
		if o := two.pollux("volume", "create", "b", "--group", "g", "--size", "1MiB", "--json"); o.code != 0 {
			return fmt.Errorf("%s", o.stderr)
		}
		return nil
	})
	x := startChains(t, func() *nbdclient.Conn { return one.dial("a") },
		func() *nbdclient.Conn { return two.dial("b") })
	hosts := []*site{one, two}
	longest, stall := 0.0, time.Duration(0)
	for i := range 12 {
		x.reset()
		b := hosts[i%2].verb("bookmark", "add", fmt.Sprint("m", i), "--group", "g")
		if points := b["points"].([]any); len(points) != 2 {
			t.Fatalf("%v", b)
		}
		longest, stall = max(longest, b["held_seconds"].(float64)), max(stall, x.reset())
		time.Sleep(time.Duration(r.IntN(50)) * time.Millisecond) // at any moment
	}
	t.Logf("12 marks: writers were held for up to %.1f ms, the slowest write took %v", longest*1e3, stall)

	// One host does not answer: no bookmark, and the other goes on after the limit.
	if err := syscall.Kill(two.agent.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	x.reset()
	start := time.Now()
	o = one.pollux("bookmark", "add", "void", "--group", "g", "--hold-limit", "500ms", "--json")
	wantError(t, "a mark that one host misses", o, fail.Retry, "host2")
	t.Logf("void after %v", time.Since(start))
	until(t, time.Minute, "host1's volume takes writes", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		return one.dial("a").WriteAt(ctx, make([]byte, 4096), 512<<10, 0)
	})
	if err := syscall.Kill(two.agent.PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	until(t, time.Minute, "marks work again", func() error {
		if o := two.pollux("bookmark", "add", "again", "--group", "g", "--json"); o.code != 0 {
			return fmt.Errorf("%s", o.stderr)
		}
		return nil
	})
	x.stop()
	two.agent.Kill() // and while it is away altogether
	o = one.pollux("bookmark", "add", "void", "--group", "g", "--hold-limit", "500ms", "--json")
	wantError(t, "a mark without a host", o, fail.Retry, "host2")
	two.mustStart()
	two.verb("bookmark", "add", "last", "--group", "g")
	one.drained("g", time.Minute)
	two.drained("g", time.Minute)

	marks := append([]string{"again", "last"}, func() (m []string) {
		for i := range 12 {
			m = append(m, fmt.Sprint("m", i))
		}
		return m
	}()...)
	moved := uint64(0)
	for _, m := range marks {
		a, _ := one.restore("a", m)
		b, _ := two.restore("b", m)
		for i := range chainCount {
			na, nb := binary.LittleEndian.Uint64(a[i*4096:]), binary.LittleEndian.Uint64(b[i*4096:])
			if nb > na || na > nb+1 {
				t.Errorf("bookmark %s, chain %d: the first host is at %d, the second at %d", m, i, na, nb)
			}
			moved = max(moved, na)
		}
	}
	if moved < 100 {
		t.Errorf("the chains got to %d only", moved)
	}
	o = one.pollux(append([]string{"restore", "a", "-o", one.dir + "/none", "--at", "void", "--json"},
		one.storeArgs()...)...)
	wantError(t, "a void mark", o, fail.NotFound, "void")
	if ls := one.pollux(append([]string{"bookmark", "ls"}, one.storeArgs()...)...); !strings.Contains(ls.stdout,
		"m11") || strings.Contains(ls.stdout, "void") {
		t.Errorf("%s%s", ls.stdout, ls.stderr)
	}
	if d := one.pollux(append([]string{"dump", "log"}, one.storeArgs()...)...); d.code != 0 {
		t.Errorf("%s", d.stderr)
	}
}
