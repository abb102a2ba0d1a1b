package uploader

import (
	"cmp"
	"math"
	"runtime"
	"slices"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/fold"
	"github.com/pollux-dr/pollux/replicator/journal"
	"github.com/pollux-dr/pollux/replicator/segment"
	"github.com/pollux-dr/pollux/replicator/state"
)

const (
	// defaultFoldFrom is the backlog from which on frames are folded.
	defaultFoldFrom = 32 << 20
	// maxWindowBytes bounds what one object is folded of. The object itself and
	// its footer fit into segment.MaxObjectBytes even if nothing is saved.
	maxWindowBytes = 32 << 20
	// foldLead is how much faster than the link folding must be to be worth it.
	foldLead = 1.5
	// thoroughFrom is the backlog, and thoroughLead the lead over the link, from
	// which on harder compression is worth it.
	thoroughFrom = 256 << 20
	thoroughLead = 4
	// rateSampleBytes: smaller objects tell more about latency than about the
	// link.
	rateSampleBytes = 256 << 10
	// guessedFoldRate is assumed per core until it is measured.
	guessedFoldRate = 60 << 20
)

// pace is what catching up goes by: bytes per second that the link took lately,
// and bytes of frames per second that were folded.
type pace struct{ link, fold float64 }

func newPace() pace {
	return pace{link: math.Inf(1), fold: guessedFoldRate * float64(min(runtime.GOMAXPROCS(0), 4))}
}

// sample moves a rate towards its newest measurement.
func sample(rate *float64, n int, took time.Duration) {
	now := float64(n) / max(took.Seconds(), 1e-6)
	if math.IsInf(*rate, 1) {
		*rate = now
		return
	}
	*rate += 0.3 * (now - *rate)
}

// folding reports whether what waits is to be folded, how hard, and from how many
// bytes of frames the next object is made: the further behind, the more. Where the
// link is faster than folding, nothing is gained.
func (u *Uploader) folding() (effort change.Effort, windowBytes int, on bool) {
	behind := u.o.Journal.Backlog(u.next - 1)
	u.mu.Lock()
	p := u.pace
	u.mu.Unlock()
	if u.o.FoldFromBytes < 0 {
		return change.Quick, u.o.SegmentBytes, true
	}
	if behind < u.o.FoldFromBytes || p.fold < foldLead*p.link {
		return change.Quick, u.o.SegmentBytes, false
	}
	if behind >= thoroughFrom && p.fold >= thoroughLead*p.link {
		effort = change.Thorough
	}
	return effort, int(max(int64(u.o.SegmentBytes), min(behind/4, maxWindowBytes))), true
}

// part is an entry of an object that is being built: one of the journal's, or a
// fold of several.
type part struct {
	segment.Entry
	from *journal.Entry // of the journal
	fold []byte
}

// parts turns the journal's entries into those of an object.
func (u *Uploader) parts(entries []journal.Entry, effort change.Effort, folding bool) ([]part, error) {
	out := make([]part, 0, len(entries))
	if !folding {
		for i := range entries {
			out = append(out, part{Entry: entries[i].Entry, from: &entries[i]})
		}
		return out, nil
	}
	keep := u.everyWrite()
	runs := map[change.StreamID][]*journal.Entry{}
	var err error
	end := func(id change.StreamID) {
		if err == nil {
			out, err = u.foldRun(out, runs[id], effort)
		}
		runs[id] = runs[id][:0]
	}
	for i := range entries {
		e := &entries[i]
		switch {
		case e.Kind == segment.FrameEntry && e.Flags&change.FlagMarks == 0 && !keep[e.Stream]:
			if runs[e.Stream] = append(runs[e.Stream], e); len(runs[e.Stream]) == segment.MaxFoldFrames {
				end(e.Stream)
			}
			continue
		case e.Kind == segment.FrameEntry:
			end(e.Stream)
		}
		out = append(out, part{Entry: e.Entry, from: e})
	}
	for id := range runs {
		end(id)
	}
	slices.SortFunc(out, func(a, b part) int { return cmp.Compare(a.Index, b.Index) })
	return out, err
}

// everyWrite lists the streams whose groups keep every write.
func (u *Uploader) everyWrite() map[change.StreamID]bool {
	keep := map[change.StreamID]bool{}
	u.o.Journal.View(func(s *state.State) {
		for id, st := range s.Streams {
			if g := s.Groups[st.Group]; g == nil || g.PITR == state.PITREveryWrite {
				keep[id] = true
			}
		}
	})
	return keep
}

// foldRun appends a run of a stream's frames as one fold, or as they are where
// nothing is saved.
func (u *Uploader) foldRun(out []part, run []*journal.Entry, effort change.Effort) ([]part, error) {
	if len(run) == 0 {
		return out, nil
	}
	size, began := 0, time.Now()
	for _, e := range run {
		size += int(e.Bytes)
	}
	b, h, err := fold.Frames(nil, len(run), effort, func(i int, buf []byte) ([]byte, error) {
		buf = slices.Grow(buf[:0], int(run[i].Bytes))[:run[i].Bytes]
		return buf, u.o.Journal.Fetch(run[i], buf)
	})
	if err != nil && !fail.Is(err, fail.Invalid) {
		return out, err
	}
	if err != nil || (len(b)+segment.HeadBytes > size && u.o.FoldFromBytes >= 0) {
		for _, e := range run {
			out = append(out, part{Entry: e.Entry, from: e})
		}
		return out, nil
	}
	e := segment.FoldEntryOf(h)
	e.Index = run[len(run)-1].Index
	u.mu.Lock()
	sample(&u.pace.fold, size, time.Since(began))
	u.status.FoldedFrom += int64(size)
	u.status.FoldedTo += int64(len(b))
	u.mu.Unlock()
	return append(out, part{Entry: e, fold: b}), nil
}
