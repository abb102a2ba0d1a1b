package nbd

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/block/blocktest"
	"github.com/pollux-dr/pollux/internal/nbdclient"
)

// Several connections write, zero, trim, read and flush at random, each its own
// part, against a model. What was replied to is visible on every connection,
// and after a FLUSH on any one of them it is durable.
func TestConnectionsAgainstModel(t *testing.T) {
	const writers, part, rounds = 4, testSize / 4, 80
	mem := blocktest.NewMem(testSize)
	_, socket := serve(t, Options{Exports: exports{"": mem}})
	var conns []*nbdclient.Conn
	for range writers {
		conns = append(conns, dial(t, socket, ""))
	}
	var wg sync.WaitGroup
	for id := range writers {
		wg.Go(func() {
			m := modelWriter{
				t: t, mem: mem, conns: conns, id: id, base: int64(id) * part,
				model: make([]byte, part), rnd: rand.New(rand.NewPCG(uint64(id), 7)),
			}
			for range rounds {
				m.step()
			}
		})
	}
	wg.Wait()
	if n := mem.Buffers(); n != 0 {
		t.Errorf("%d buffers lost", n)
	}
}

type modelWriter struct {
	t     *testing.T
	mem   *blocktest.Mem
	conns []*nbdclient.Conn
	id    int
	base  int64
	model []byte
	rnd   *rand.Rand
}

func (m *modelWriter) step() {
	ctx := context.Background()
	c := m.conns[m.rnd.IntN(len(m.conns))] // any connection will do
	n := 1 + m.rnd.IntN(1<<(1+m.rnd.IntN(20)))
	off := m.rnd.IntN(len(m.model) - n + 1)
	flags := nbdclient.Flags(0)
	if m.rnd.IntN(4) == 0 {
		flags = nbdclient.FUA
	}
	at := m.base + int64(off)
	var err error
	switch m.rnd.IntN(8) {
	case 0, 1, 2:
		p := pattern(n, byte(m.rnd.Int()))
		copy(m.model[off:], p)
		err = c.WriteAt(ctx, p, at, flags)
	case 3:
		clear(m.model[off : off+n])
		err = c.Zero(ctx, at, int64(n), flags|nbdclient.NoHole)
	case 4:
		clear(m.model[off : off+n])
		err = c.Trim(ctx, at, int64(n), flags)
	case 5:
		if err = c.Flush(ctx); err == nil {
			wantBytes(m.t, "durable after flush", m.mem.Durable()[m.base:][:len(m.model)], m.model)
		}
		flags = 0
	default:
		p := make([]byte, n)
		if err = c.ReadAt(ctx, p, at); err == nil {
			wantBytes(m.t, "read", p, m.model[off:off+n])
		}
		flags = 0
	}
	if err != nil {
		m.t.Errorf("writer %d: %v", m.id, err)
	}
	if flags != 0 {
		wantBytes(m.t, "durable after FUA", m.mem.Durable()[at:at+int64(n)], m.model[off:off+n])
	}
}

// A pipeline of asynchronous requests on one connection, disjoint but all in
// flight together, over the real File.
func TestPipelineOverFile(t *testing.T) {
	path := tempFile(t, testSize)
	dev, err := block.OpenFile(path, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dev.Close() })
	_, socket := serve(t, Options{Exports: exports{"": dev}})
	for _, size := range []int{512, 4096, 40000, 64 << 10, 100000, 1 << 20, 3 << 20} {
		c := dial(t, socket, "")
		count := min(testSize/size, 200)
		all := func(op nbdclient.Op, flags nbdclient.Flags, data func(i int) []byte) {
			var wg sync.WaitGroup
			for i := range count {
				wg.Add(1)
				r := &nbdclient.Request{Op: op, Flags: flags, Off: int64(i * size), Data: data(i)}
				r.Done = func(r *nbdclient.Request) {
					if r.Err != nil {
						t.Error(r.Err)
					}
					wg.Done()
				}
				if err := c.Submit(r); err != nil {
					t.Fatal(err)
				}
			}
			wg.Wait()
		}
		for _, flags := range []nbdclient.Flags{0, nbdclient.FUA} {
			all(nbdclient.Write, flags, func(i int) []byte { return pattern(size, byte(i)+byte(flags)) })
			got := make([][]byte, count)
			all(nbdclient.Read, 0, func(i int) []byte { got[i] = make([]byte, size); return got[i] })
			for i := range got {
				wantBytes(t, "read back", got[i], pattern(size, byte(i)+byte(flags)))
			}
		}
	}
}
