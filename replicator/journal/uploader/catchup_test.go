package uploader

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/seed"
	"github.com/pollux-dr/pollux/replicator/journal"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/state"
)

// randomEntries are a journal's: frames of some streams, and commands.
func randomEntries(r *rand.Rand, n int) []journal.Entry {
	out := make([]journal.Entry, n)
	lsn := map[uuid.UUID]uint64{}
	for i := range out {
		e := &out[i].Entry
		if r.IntN(5) == 0 {
			*e = segment.Entry{Kind: segment.CommandEntry, Command: state.KindHeartbeat, Bytes: uint32(20 + r.IntN(9))}
		} else {
			id := uuid.UUID{byte(1 + r.IntN(3))}
			first := lsn[id] + 1
			lsn[id] += 1 + r.Uint64N(4)
			*e = segment.Entry{Kind: segment.FrameEntry, Stream: id, FirstLSN: first, LastLSN: lsn[id],
				Bytes: uint32(r.IntN(5000)), Hash: change.Hash{byte(i), byte(i >> 8), 1}}
		}
		e.Index, e.Covers = 100+uint64(i), 1
	}
	return out
}

// randomFolds are the entries of an object made of them: some runs are folded.
func randomFolds(r *rand.Rand, ours []journal.Entry) []segment.Entry {
	var out []segment.Entry
	open := map[uuid.UUID]*segment.Entry{}
	for i := range ours {
		e := ours[i].Entry
		f := open[e.Stream]
		switch {
		case e.Kind == segment.CommandEntry || (f == nil && r.IntN(3) == 0):
			out = append(out, e)
			continue
		case f == nil:
			f = &segment.Entry{Kind: segment.FoldEntry, Stream: e.Stream, FirstLSN: e.FirstLSN}
			open[e.Stream] = f
		}
		f.Covers, f.Index, f.LastLSN, f.Hash = f.Covers+1, e.Index, e.LastLSN, e.Hash
		last := true
		for k := i + 1; k < len(ours); k++ {
			last = last && ours[k].Stream != e.Stream
		}
		if last || r.IntN(4) == 0 {
			out = append(out, *f)
			delete(open, e.Stream)
		}
	}
	return out
}

// TestSameEntries: an object is taken for the journal's own exactly where each of
// its entries and folds is.
func TestSameEntries(t *testing.T) {
	seed := seed.New(t)
	for i := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, i))
		ours := randomEntries(r, 1+r.IntN(30))
		theirs := randomFolds(r, ours)
		if at, ok := sameEntries(ours, theirs); !ok {
			t.Fatalf("round %d: index %d differs\n%+v\n%+v", i, at, ours, theirs)
		}
		k := r.IntN(len(theirs))
		what, b := "", &theirs[k]
		switch r.IntN(4) {
		case 0:
			if !b.OfStream() {
				continue
			}
			what = "hash"
			b.Hash[0]++
		case 1:
			what = "covers"
			b.Covers++
			if !b.OfStream() {
				continue
			}
		case 2:
			what = "missing"
			theirs = append(theirs[:k:k], theirs[k+1:]...)
		case 3:
			if !b.OfStream() {
				continue
			}
			what = "stream"
			b.Stream[5]++
		}
		if _, ok := sameEntries(ours, theirs); ok {
			t.Fatalf("round %d: %s of entry %d goes unnoticed", i, what, k)
		}
	}
}

// TestPace: folding begins with a backlog on a link that is slower than it.
func TestPace(t *testing.T) {
	p := newPace()
	if p.fold < foldLead*p.link {
		t.Error("an unknown link is taken for a fast one")
	}
	for range 10 {
		sample(&p.link, 8<<20, time.Second)
	}
	if p.link < 7<<20 || p.link > 9<<20 || p.fold < foldLead*p.link {
		t.Errorf("slow link: %+v", p)
	}
	for range 20 {
		p.landed(8<<20, 5*time.Millisecond)
	}
	if p.fold >= foldLead*p.link {
		t.Errorf("fast link: %+v", p)
	}
	p.landed(500, time.Millisecond) // latency says nothing about the link
	if p.fold >= foldLead*p.link {
		t.Errorf("small object: %+v", p)
	}
	p.landed(500, time.Minute)
	if p.fold < foldLead*p.link {
		t.Errorf("after an outage: %+v", p)
	}
}

// TestMemoryInFlight: objects under way are bounded in bytes too.
func TestMemoryInFlight(t *testing.T) {
	u := &Uploader{o: Options{InFlight: 4}, batchFull: true}
	for n, want := range map[int]bool{0: true, maxFlyingBytes - 1: true, maxFlyingBytes: false} {
		u.flying, u.flyingBytes = 1, n
		if u.mayLaunch() != want {
			t.Error(fmt.Sprint(n, " bytes under way"))
		}
	}
}
