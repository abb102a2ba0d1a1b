package systemtest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/nbdclient"
)

// writer sends one request at a time and knows each one's LSNs: nobody else
// writes to its group.
type writer struct {
	site          *site
	group, volume string
	rand          *rand.Rand
	h             *history
	conn          *nbdclient.Conn
	mu            sync.Mutex    // of h and pending, for who looks at them while it runs
	pace          time.Duration // between requests
	pending       *op           // sent, and not answered
	ops           atomic.Int64  // answered, for whoever paces the load
	flushed       atomic.Uint64 // the LSN that the last answered flush covers
	flushes       atomic.Int64  // answered, forced writes among them
	flushPart     int           // one request in so many is preceded by a flush; 0: 20
	largeTrims    bool          // some requests trim or zero megabytes
	marked        bool          // others write marks into its group, so that the model does not know LSNs
}

// newWriter is for a volume that nobody has written to.
func newWriter(s *site, group, volume string, size int64, r *rand.Rand) *writer {
	s.t.Helper()
	return &writer{site: s, group: group, volume: volume, rand: r, h: newHistory(size, s.group(group).LastLSN)}
}

// connect dials, again after a restart.
func (w *writer) connect() {
	w.site.t.Helper()
	if w.conn != nil {
		_ = w.conn.Close()
	}
	w.conn = w.site.dial(w.volume)
}

// run writes until ctx ends or something fails, and returns the failure; what
// was sent last may then have happened or not. A contradiction is returned as a
// *wrong.
func (w *writer) run(ctx context.Context) error {
	for n := 0; ctx.Err() == nil; n++ {
		time.Sleep(w.pace)
		if w.rand.IntN(cmp.Or(w.flushPart, 20)) == 0 {
			lsn := w.h.lsn
			if err := w.conn.Flush(context.Background()); err != nil {
				return err
			}
			w.flushed.Store(lsn)
			w.flushes.Add(1)
		}
		o := randomOp(w.rand, 0, w.h.size)
		if w.largeTrims && n%40 == 39 {
			o = largeTrim(w.rand, w.h.size)
		}
		if err := w.do(o); err != nil {
			return err
		}
		if n%50 == 49 && !w.marked {
			if err := w.compareLSN(); err != nil {
				return err
			}
		}
	}
	return nil
}

// background runs the writer; the function it returns stops it, and fails the
// test if it had failed before.
func (w *writer) background() (stop func()) {
	ctx, cancel := context.WithCancel(w.site.t.Context())
	done := make(chan error, 1)
	go func() { done <- w.run(ctx) }()
	return func() {
		w.site.t.Helper()
		cancel()
		if err := <-done; err != nil {
			w.site.t.Fatalf("the NBD client got an error: %v", err)
		}
	}
}

// progress waits for n more answered requests.
func (w *writer) progress(n int64) {
	w.site.t.Helper()
	want := w.ops.Load() + n
	until(w.site.t, time.Minute, "the writer goes on", func() error {
		if got := w.ops.Load(); got < want {
			return fmt.Errorf("%d requests answered, want %d", got, want)
		}
		return nil
	})
}

// do sends one request and takes it into the history when it is answered.
func (w *writer) do(o op) error {
	w.mu.Lock()
	w.pending = &o
	w.mu.Unlock()
	ctx := context.Background() // a request cannot be taken back
	var err error
	switch o.kind {
	case opWrite:
		err = w.conn.WriteAt(ctx, o.fill(w.h.buf), o.off, o.flags)
	case opZero:
		err = w.conn.Zero(ctx, o.off, int64(o.n), o.flags)
	case opTrim:
		err = w.conn.Trim(ctx, o.off, int64(o.n), o.flags)
	}
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.h.add(o, len(o.parts()))
	w.pending = nil
	w.mu.Unlock()
	if o.flags&nbdclient.FUA != 0 {
		w.flushed.Store(w.h.lsn)
		w.flushes.Add(1)
	}
	w.ops.Add(1)
	return nil
}

// wrong is a contradiction to the model, as against a connection that ended.
type wrong struct{ text string }

func (w *wrong) Error() string { return w.text }

// compareLSN holds the agent's last LSN against the model's.
func (w *writer) compareLSN() error {
	st, err := w.site.tryStatus()
	if err != nil {
		return err
	}
	g, err := groupOf(st, w.group)
	if err == nil && g.LastLSN != w.h.lsn {
		return &wrong{fmt.Sprintf("group %s is at LSN %d, the model at %d", w.group, g.LastLSN, w.h.lsn)}
	}
	return err
}

// settle finds out, after a restart, what became of the request that was on
// its way: any first records of it may be there, nothing else.
func (w *writer) settle() {
	w.site.t.Helper()
	last := w.site.group(w.group).LastLSN
	most := w.h.lsn
	if w.pending != nil {
		most += uint64(len(w.pending.parts()))
	}
	if last < w.h.lsn || last > most {
		w.site.t.Fatalf("group %s is at LSN %d after the restart; acknowledged was %d, and %d sent", w.group, last,
			w.h.lsn, most)
	}
	if w.pending != nil {
		w.h.add(*w.pending, int(last-w.h.lsn))
		w.pending = nil
	}
}

// goOnAt is a writer at another site, to which the group has gone: from an LSN there that is no
// earlier than least. What the model has behind that did not come along. This writer may run on.
func (w *writer) goOnAt(n *site, least uint64) *writer {
	n.t.Helper()
	lsn := n.group(w.group).LastLSN
	w.mu.Lock()
	defer w.mu.Unlock()
	pending := 0
	if w.pending != nil {
		pending = len(w.pending.parts())
	}
	if lsn < least || lsn > w.h.lsn+uint64(pending) {
		n.t.Fatalf("group %s goes on from LSN %d; %d had to be there, acknowledged was %d, and %d more sent", w.group,
			lsn, least, w.h.lsn, pending)
	}
	image := w.h.at(min(lsn, w.h.lsn))
	if lsn > w.h.lsn {
		w.h.apply(image, &step{op: *w.pending, first: w.h.lsn + 1, records: int(lsn - w.h.lsn)}, lsn)
	}
	to := w.successor(n, lsn, image)
	to.verify()
	return to
}

// goOnWhole is a writer at another site, to which the group was handed over: all that was acknowledged
// is there, and of what was under way some first records. LSNs tell nothing where it is marked.
func (w *writer) goOnWhole(n *site) *writer {
	n.t.Helper()
	to := w.successor(n, n.group(w.group).LastLSN, w.h.image)
	got := readAll(n.t, to.conn)
	if w.pending != nil {
		for k := range w.pending.parts() {
			if bytes.Equal(got, to.h.image) {
				break
			}
			w.h.apply(to.h.image, &step{op: *w.pending, first: 1, records: k + 1}, uint64(k+1))
		}
		to.h.saved = nil
		to.h.save()
	}
	sameBytes(n.t, "volume "+w.volume+" after the hand-over", got, to.h.image)
	return to
}

// successor is a writer at another site, with a model that begins at a point.
func (w *writer) successor(n *site, lsn uint64, image []byte) *writer {
	to := &writer{site: n, group: w.group, volume: w.volume, rand: rand.New(rand.NewPCG(lsn, 1)), pace: w.pace,
		h: newHistory(w.h.size, lsn), flushPart: w.flushPart, largeTrims: w.largeTrims}
	copy(to.h.image, image)
	to.h.save()
	to.connect()
	return to
}

// verify reads the whole volume.
func (w *writer) verify() {
	w.site.t.Helper()
	sameBytes(w.site.t, "volume "+w.volume, readAll(w.site.t, w.conn), w.h.image)
}

func readAll(t *testing.T, c *nbdclient.Conn) []byte {
	t.Helper()
	b := make([]byte, c.Size())
	for off := 0; off < len(b); off += maxWriteBytes {
		if err := c.ReadAt(t.Context(), b[off:min(len(b), off+maxWriteBytes)], int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// checkRestore restores at each LSN and compares with the model.
func (w *writer) checkRestore(lsns ...uint64) {
	w.site.t.Helper()
	for _, lsn := range lsns {
		lsn = w.site.exact(w.volume, lsn)
		got, at := w.site.restore(w.volume, fmt.Sprint(lsn))
		if at != lsn {
			w.site.t.Fatalf("restore --at %d says LSN %d", lsn, at)
		}
		sameBytes(w.site.t, fmt.Sprintf("twin of %s at LSN %d", w.volume, lsn), got, w.h.at(lsn))
	}
}

// exact is lsn, or, where that was folded away, a point next to it, as the refusal
// says.
func (s *site) exact(volume string, lsn uint64) uint64 {
	s.t.Helper()
	o := s.pollux(append([]string{"restore", volume, "-o", filepath.Join(s.dir, "none"), "--dry-run", "--at",
		fmt.Sprint(lsn)}, s.storeArgs()...)...)
	if o.code == 0 || !strings.Contains(o.stderr, "folded") {
		return lsn
	}
	m := regexp.MustCompile(`points? (?:are|is) LSN (\d+)`).FindStringSubmatch(o.stderr)
	if m == nil {
		s.t.Fatalf("a refusal without a point: %s", o.stderr)
	}
	near, _ := strconv.ParseUint(m[1], 10, 64)
	return near
}

// checkNewest restores the newest point, which must be one of the model's, and
// returns its LSN.
func (w *writer) checkNewest() uint64 {
	w.site.t.Helper()
	got, lsn := w.site.restore(w.volume, "")
	if lsn > w.h.lsn {
		w.site.t.Fatalf("the newest point is LSN %d, the model knows %d", lsn, w.h.lsn)
	}
	sameBytes(w.site.t, fmt.Sprintf("newest twin of %s, LSN %d", w.volume, lsn), got, w.h.at(lsn))
	return lsn
}
