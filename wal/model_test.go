package wal

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/fail"
)

// model is the simplest log there is.
type model struct {
	first   uint64
	last    uint64
	content map[uint64][]byte
}

// TestModel runs random operations on a log and on the model side by side.
func TestModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		runModel(t, seed, 400, seed%2 == 1)
	}
}

func runModel(t *testing.T, seed uint64, steps int, background bool) {
	rng := rand.New(rand.NewPCG(seed, 7))
	var fs vfs.FS = vfs.NewCrashableMem()
	salt := seededSalt(seed)
	opt := Options{FS: fs, Salt: salt, PreallocateInBackground: background}
	l := openTest(t, opt)
	m := model{first: 1, content: map[uint64][]byte{}}
	ctx := context.Background()
	serial, dirty := uint64(0), false // dirty: written to since it was opened
	fatal := func(step int, what string, args ...any) {
		t.Helper()
		t.Fatalf("seed %d, step %d: %s %v", seed, step, what, args)
	}
	for step := range steps {
		switch n := rng.IntN(100); {
		case n < 40:
			var entries [][]byte
			for range rng.IntN(5) {
				serial++
				entries = append(entries, payload(serial, 8+rng.IntN(1+rng.IntN(12000))))
			}
			last, err := l.Append(entries...)
			for _, e := range entries {
				m.last++
				m.content[m.last] = e
				dirty = true
			}
			if err != nil || last != m.last {
				fatal(step, "append", last, m.last, err)
			}
		case n < 55:
			index := m.first - 1 + rng.Uint64N(m.last+2-m.first)
			if err := l.Sync(ctx, index); err != nil {
				fatal(step, "sync", err)
			}
			if l.Durable() < index {
				fatal(step, "durable", l.Durable(), index)
			}
		case n < 65:
			m.first += rng.Uint64N(m.last + 2 - m.first)
			if err := l.TruncateFront(m.first); err != nil {
				fatal(step, "truncate front", err)
			}
		case n < 72:
			m.last = m.first - 1 + rng.Uint64N(m.last+2-m.first)
			if err := l.TruncateBack(m.last); err != nil {
				fatal(step, "truncate back", err)
			}
		case n < 74:
			m.first = 1 + rng.Uint64N(m.last+100)
			m.last = m.first - 1
			if err := l.Reset(m.first); err != nil {
				fatal(step, "reset", err)
			}
		case n < 80:
			if n%2 == 0 { // killed
				mem := copyFS(t, fs, testDir)
				if background { // which works meanwhile: copy all in one moment
					mem = fs.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng})
				}
				must(t, l.Close())
				fs = mem
			} else if err := l.Close(); err != nil {
				fatal(step, "close", err)
			}
			// Sizes may change from one run to the next.
			opt.FS, opt.SegmentBytes = fs, int64(4+rng.IntN(12))*blockBytes
			if opt.SegmentBytes < 24<<10 {
				opt.SegmentBytes = 24 << 10
			}
			l = openTest(t, opt)
			if l.First() > m.first || l.Last() != m.last || l.Durable() != m.last {
				fatal(step, "reopened", l.First(), m.first, l.Last(), m.last, l.Durable())
			}
			if l.Recovery().Clean != (n%2 == 1) && dirty {
				fatal(step, "killed, yet clean")
			}
			m.first, dirty = l.First(), false
		case n < 82: // read all by a Reader
			r := l.NewReader(m.first)
			for i := m.first; i <= l.Durable(); i++ {
				index, b, err := r.Next(ctx)
				if err != nil || index != i || !bytes.Equal(b, m.content[i]) {
					fatal(step, "reader", index, i, err)
				}
			}
		default:
			checkRead(t, l, m, m.first-1+rng.Uint64N(m.last+3-m.first), func(args ...any) {
				fatal(step, "read", args...)
			})
		}
		if l.First() != m.first || l.Last() != m.last {
			fatal(step, "bounds", l.First(), m.first, l.Last(), m.last)
		}
	}
	for i := m.first; i <= m.last; i++ {
		checkRead(t, l, m, i, func(args ...any) { fatal(steps, "read", args...) })
	}
	must(t, l.Close())
}

func checkRead(t *testing.T, l *Log, m model, i uint64, fatal func(...any)) {
	t.Helper()
	b, err := l.Read(i, nil)
	if i < m.first || i > m.last {
		if !fail.Is(err, fail.NotFound) {
			fatal("outside", i, err)
		}
		return
	}
	if err != nil || !bytes.Equal(b, m.content[i]) {
		fatal(i, err, len(b), len(m.content[i]))
	}
}
