package mount

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// small is a disk with room for so many pages.
type small struct {
	disk
	mu   sync.Mutex
	room int
	used map[int64]bool
}

func (s *small) WriteAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for done := 0; done < len(p); {
		page := (off + int64(done)) / pageBytes
		n := min(len(p)-done, int((page+1)*pageBytes-off)-done)
		if !s.used[page] && len(s.used) >= s.room {
			return done, unix.ENOSPC
		}
		s.used[page] = true
		if n, err := s.disk.WriteAt(p[done:done+n], off+int64(done)); err != nil {
			return done + n, err
		}
		done += n
	}
	return len(p), nil
}

func (s *small) Punch(off, n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for page := (off + pageBytes - 1) / pageBytes; (page+1)*pageBytes <= off+n; page++ {
		delete(s.used, page)
	}
	return s.disk.Punch(off, n)
}

func (m *mounted) onSmallDisk(pages int) *small {
	s := &small{disk: m.file, room: pages, used: map[int64]bool{}}
	m.file = s
	return s
}

// set writes bytes, to the model too.
func (m *mounted) set(t *testing.T, off int64, data []byte) {
	t.Helper()
	b, err := m.Prepare(t.Context(), len(data))
	if err != nil {
		t.Fatal(err)
	}
	copy(m.want[off:], data)
	for _, p := range b.Pieces() {
		data = data[copy(p, data):]
	}
	if err := m.Write(t.Context(), b, off, false); err != nil {
		t.Fatal(err)
	}
}

// TestFullDisk: reads go on from the store, and what is written takes the room of what was
// only read.
func TestFullDisk(t *testing.T) {
	m := newMounted(t, Options{Writable: true}, false)
	const room = 40
	s := m.onSmallDisk(room)
	m.compare(t, 0, testBytes)
	for range 200 {
		off, n := m.somewhere()
		m.compare(t, off, n)
	}
	for i := range room / 2 { // each page at another place, in part
		off := int64(i) * (testBytes / room / pageBytes) * pageBytes
		m.write(t, off+100, 5)
		off, n := m.somewhere()
		m.compare(t, off, n)
	}
	m.compare(t, 0, testBytes)

	// What was written is never dropped: beyond the room there is an error.
	b, err := m.Prepare(t.Context(), (room+1)*pageBytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Write(t.Context(), b, 1<<20, false); !fail.Is(err, fail.Full) {
		t.Errorf("a write of more than the disk has room for: %v", err)
	}
	s.mu.Lock()
	s.room = 1 << 20
	s.mu.Unlock()
	m.set(t, 0, bytes.Clone(m.want[:1<<20]))
	m.compare(t, 0, testBytes)
}

// TestHydrateOnFullDisk: hydration ends with an error, and gives way to what is written.
func TestHydrateOnFullDisk(t *testing.T) {
	m := newMounted(t, Options{Writable: true}, false)
	s := m.onSmallDisk(20)
	if err := m.Hydrate(t.Context(), twin.Run{}); !fail.Is(err, fail.Full) || m.Stats().Hydrated {
		t.Errorf("hydrated on a disk without room: %v", err)
	}
	m.compare(t, 0, testBytes)
	s.mu.Lock()
	s.room = 1 << 20
	s.mu.Unlock()
	m.compare(t, 0, testBytes)
	s.mu.Lock()
	s.room = len(s.used) + 1
	s.mu.Unlock()
	m.pinned.Store(true) // another attempt is under way
	for i := range int64(3) {
		m.set(t, i*100*pageBytes+7, []byte("new bytes"))
	}
	if m.pinned.Load() {
		t.Error("what was hydrated kept its room")
	}
	m.compare(t, 0, testBytes)
}

// TestFewLeaves: what is here of a leaf is known though its state left memory.
func TestFewLeaves(t *testing.T) {
	for _, hydrate := range []bool{false, true} {
		d, want := dense(t, 1<<30, 5*extent.LeafBytes+777)
		d.maxLeaves = 2
		m := &mounted{Device: d, want: want, r: rand.New(rand.NewPCG(1, 2))}
		if hydrate {
			if err := d.Hydrate(t.Context(), twin.Run{}); err != nil {
				t.Fatal(err)
			}
		}
		for range 300 {
			off := m.r.Int64N(d.size - 9000)
			n := 1 + m.r.Int64N(9000)
			if m.r.IntN(2) == 0 {
				m.write(t, off, n)
			}
			off = m.r.Int64N(d.size - 9000)
			m.compare(t, off, n)
			if len(d.leaves) > 2 || d.order.Len() != len(d.leaves) {
				t.Fatalf("%d leaves in memory, of 2", len(d.leaves))
			}
		}
		store := d.Stats().StoreBytes
		m.compare(t, 0, d.size)
		if hydrate && d.Stats().StoreBytes != store {
			t.Error("a hydrated mount read from the store")
		}
	}
}
