package uploader

import (
	"cmp"
	"context"
	"runtime"
	"slices"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/journal"
	"github.com/pollux-dr/pollux/replicator/objlog/fold"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/state"
)

const (
	// defaultFoldFrom is the backlog from which on frames are folded.
	defaultFoldFrom = 32 << 20
	// safeWindowBytes of frames fit into an object even if nothing is saved.
	// Further behind, up to maxWindowBytes are tried.
	safeWindowBytes = 32 << 20
	maxWindowBytes  = 128 << 20
	// foldLead is how much faster than the link folding must be to be worth it.
	foldLead = 1.5
	// thoroughFrom is the backlog, and thoroughLead the lead over the link, from
	// which on harder compression is worth it.
	thoroughFrom = 256 << 20
	thoroughLead = 4
	// rateSampleBytes: smaller objects tell more about latency than about the
	// link.
	rateSampleBytes = 256 << 10
	// slowRequest: an object that takes longer says that the link is slow, or
	// was away.
	slowRequest = time.Second
	// minSaving: a fold that saves less than one part in so many is not worth the
	// points that it costs.
	minSaving = 10
	// guessedFoldRate is assumed per core until it is measured.
	guessedFoldRate = 60 << 20
)

// pace is what catching up goes by: bytes per second that the link took lately (0 is
// unknown), and bytes of frames per second that were folded.
type pace struct{ link, fold float64 }

func newPace() pace { return pace{fold: guessedFold()} }

func guessedFold() float64 { return guessedFoldRate * float64(min(runtime.GOMAXPROCS(0), 4)) }

// forget moves a fold rate that was measured low back towards the guess: it may have
// been a passing cause, and nothing measures it while nothing is folded.
func (p *pace) forget() {
	if p.fold < guessedFold() {
		p.fold += (guessedFold() - p.fold) / 50
	}
}

// sample moves a rate towards its newest measurement.
func sample(rate *float64, n int, took time.Duration) {
	now := float64(n) / max(took.Seconds(), 1e-6)
	if *rate == 0 {
		*rate = now
		return
	}
	*rate += 0.4 * (now - *rate)
}

// landed takes into account that n bytes took so long.
func (p *pace) landed(n int, took time.Duration) {
	switch {
	case took >= slowRequest && p.link > 0:
		p.link = min(p.link, slowLink(n, took))
	case n >= rateSampleBytes:
		sample(&p.link, n, took)
	}
}

// slowLink is the most that a link can be with which n bytes took so long: of few
// bytes the latency is part.
func slowLink(n int, took time.Duration) float64 {
	return float64(max(n, pipelineBytes)) / took.Seconds()
}

// folding reports whether what waits is to be folded, how hard, and from how many
// bytes of frames the next object is made: the further behind, the more. Where the
// link is faster than folding, nothing is gained. Once begun it goes on until little
// waits.
func (u *Uploader) folding() (effort change.Effort, windowBytes int, on bool) {
	behind := u.o.Journal.Backlog(u.next - 1)
	u.mu.Lock()
	p := u.pace
	for pos, began := range u.began {
		if age := time.Since(began); age >= slowRequest && pos >= u.status.Position {
			p.link = min(p.link, slowLink(u.flyingBytes, age))
		}
	}
	u.mu.Unlock()
	defer func() { u.catching = on }()
	if u.o.FoldFromBytes < 0 {
		return change.Quick, u.o.SegmentBytes, true
	}
	from := u.o.FoldFromBytes
	if u.catching {
		from = min(from, int64(u.o.SegmentBytes))
	}
	if behind < from || p.fold < foldLead*p.link {
		return change.Quick, u.o.SegmentBytes, false
	}
	if behind >= thoroughFrom && p.fold >= thoroughLead*p.link {
		effort = change.Thorough
	}
	return effort, max(u.o.SegmentBytes, int(min(behind, max(safeWindowBytes, min(behind/4, int64(u.window)))))), true
}

// assemble makes the next object's parts of what was collected. Where too much is
// left of a large window, it takes less of it, and the next window is smaller.
func (u *Uploader) assemble(ctx context.Context) (entries []journal.Entry, parts []part, err error) {
	effort, _, on := u.folding()
	if !on {
		u.mu.Lock()
		u.pace.forget()
		u.mu.Unlock()
	}
	entries = u.batch
	for {
		if parts, err = u.parts(ctx, entries, effort, on); err != nil {
			return nil, nil, err
		}
		size := 2*segment.HeadBytes + segment.TrailerBytes + len(parts)*(segment.EntryBytes+segment.StreamBytes)
		for i := range parts {
			size += int(parts[i].Bytes)
		}
		if size <= segment.MaxBodyBytes || len(entries) == 1 {
			break
		}
		entries = entries[:len(entries)/2]
		u.window = safeWindowBytes
	}
	u.window = min(u.window+u.window/16, maxWindowBytes)
	u.mu.Lock()
	for i := range parts {
		u.status.FoldedFrom += parts[i].foldedFrom
		u.status.FoldedTo += int64(len(parts[i].fold))
	}
	u.mu.Unlock()
	return entries, parts, nil
}

// part is an entry of an object that is being built: one of the journal's, or a
// fold of several.
type part struct {
	segment.Entry
	from *journal.Entry // of the journal
	fold []byte
	// foldedFrom is what the fold's frames had.
	foldedFrom int64
}

// parts turns the journal's entries into those of an object.
func (u *Uploader) parts(ctx context.Context, entries []journal.Entry, effort change.Effort,
	folding bool) ([]part, error) {
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
			out, err = u.foldRun(ctx, out, runs[id], effort)
		}
		runs[id] = runs[id][:0]
	}
	for i := range entries {
		e := &entries[i]
		if run := runs[e.Stream]; len(run) > 0 && run[len(run)-1].LastLSN+1 != e.FirstLSN {
			end(e.Stream) // a gap, which a resync closed
		}
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
			if g := s.Groups[st.Group]; g == nil || g.PITR != state.PITRFold {
				keep[id] = true
			}
		}
	})
	return keep
}

// foldRun appends a run of a stream's frames as one fold, or as they are where that
// saves little, or cannot be: what the journal has accepted is uploaded, even if it is
// damaged.
func (u *Uploader) foldRun(ctx context.Context, out []part, run []*journal.Entry,
	effort change.Effort) ([]part, error) {
	if len(run) == 0 {
		return out, nil
	}
	size, began := 0, time.Now()
	for _, e := range run {
		size += int(e.Bytes)
	}
	b, h, err := fold.Frames(ctx, nil, len(run), effort, func(i int, buf []byte) ([]byte, error) {
		buf = slices.Grow(buf[:0], int(run[i].Bytes))[:run[i].Bytes]
		return buf, u.o.Journal.Fetch(run[i], buf)
	})
	if ctx.Err() != nil {
		return out, ctx.Err()
	}
	if err != nil && !fail.Is(err, fail.Invalid) {
		u.o.Logger.Error("frames that cannot be folded; they are uploaded as they are", "target", u.o.Target,
			"first_index", run[0].Index, "last_index", run[len(run)-1].Index, "err", err)
	}
	if size >= rateSampleBytes {
		u.mu.Lock()
		sample(&u.pace.fold, size, time.Since(began))
		u.mu.Unlock()
	}
	if err != nil || (len(b) > size-size/minSaving && u.o.FoldFromBytes >= 0) {
		for _, e := range run {
			out = append(out, part{Entry: e.Entry, from: e})
		}
		return out, nil
	}
	e := segment.FoldEntryOf(h)
	e.Index = run[len(run)-1].Index
	return append(out, part{Entry: e, fold: b, foldedFrom: int64(size)}), nil
}
