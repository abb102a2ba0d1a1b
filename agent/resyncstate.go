package agent

// resyncPhase is where a stream stands between an overflow and the end of its resync.
type resyncPhase uint8

const (
	// resyncNone: nothing was dropped, or all of it is in the targets again.
	resyncNone resyncPhase = iota
	// resyncDropped: frames were dropped, and a durable bitmap has what they changed.
	// No session has found yet that the journal knows of the gap.
	resyncDropped
	// resyncCopying: the journal has the gap, and what changed is copied into the log.
	resyncCopying
	// resyncCopied: all copies have their LSNs. When the journal has them, it is told
	// the end until it has heard it.
	resyncCopied
	// resyncEnded: the journal has the end, so the log has a point again and the bitmap
	// is gone. A mark of it is on its way into the log.
	resyncEnded
	// resyncMarked: the mark is in the log, and the targets do not have it yet.
	resyncMarked

	resyncPhases = iota
)

// resyncEvent is what moves a stream from one phase to the next.
type resyncEvent uint8

const (
	// framesDropped: the WAL overflowed, perhaps again; the bitmap that says so is durable.
	framesDropped resyncEvent = iota
	// bitmapFound: a start found the bitmap of an earlier run.
	bitmapFound
	// gapAttached: a session has attached the stream, and the journal's log of it has a gap.
	gapAttached
	// copiesLogged: the last copy has its LSN.
	copiesLogged
	// resyncFailed: copying, or saying the end, met an error; it begins anew.
	resyncFailed
	// pointRegained: the journal's log of the stream has no gap (any more), and the
	// bitmap is gone.
	pointRegained
	// endMarked: the mark of the end has its LSN.
	endMarked
	// endDurable: the targets have the mark.
	endDurable

	resyncEvents = iota
)

// resyncTable says which event leads from which phase to which. What is not in it is
// refused, and changes nothing.
var resyncTable = map[resyncPhase]map[resyncEvent]resyncPhase{
	resyncNone: {
		framesDropped: resyncDropped,
		bitmapFound:   resyncDropped,
	},
	resyncDropped: {
		framesDropped: resyncDropped,
		gapAttached:   resyncCopying,
		pointRegained: resyncEnded, // it had got the frames after all, or the end: its word was lost
	},
	resyncCopying: { // a session that finds the gap still there changes nothing
		framesDropped: resyncDropped,
		copiesLogged:  resyncCopied,
		resyncFailed:  resyncCopying,
		pointRegained: resyncEnded,
	},
	resyncCopied: {
		framesDropped: resyncDropped,
		resyncFailed:  resyncCopying,
		pointRegained: resyncEnded,
	},
	resyncEnded: {
		framesDropped: resyncDropped, // another overflow; nobody waits for the mark of this one
		endMarked:     resyncMarked,
	},
	resyncMarked: {
		framesDropped: resyncDropped,
		endDurable:    resyncNone,
	},
}

// open reports whether frames are missing from the log: it has no point after what
// came before them, and the bitmap is all that is left of them.
func (p resyncPhase) open() bool {
	return p == resyncDropped || p == resyncCopying || p == resyncCopied
}

// copies reports whether a resync is at work.
func (p resyncPhase) copies() bool { return p == resyncCopying || p == resyncCopied }

// resyncState is the phase of a stream's resync, and who works on it. Guarded by
// stream.mu.
type resyncState struct {
	phase resyncPhase
	// overflows counts framesDropped and bitmapFound. Whoever works for an overflow names
	// its number, and is overtaken when there has been another one since.
	overflows int
	working   bool // the goroutine of resyncLoop runs
}

// may reports whether the event would lead anywhere.
func (r *resyncState) may(e resyncEvent) bool {
	_, ok := resyncTable[r.phase][e]
	return ok
}

// on takes an event. It reports false where the phase has no use for it.
func (r *resyncState) on(e resyncEvent) bool {
	next, ok := resyncTable[r.phase][e]
	if !ok {
		return false
	}
	r.phase = next
	if e == framesDropped || e == bitmapFound {
		r.overflows++
	}
	return true
}

// onFor takes an event that is about the overflow of that number, and of no other.
func (r *resyncState) onFor(overflow int, e resyncEvent) bool {
	return overflow == r.overflows && r.on(e)
}

// overtaken reports whether there is nothing left to copy for the overflow of that
// number: there was another one, or the journal has its end.
func (r *resyncState) overtaken(overflow int) bool {
	return overflow != r.overflows || !r.phase.copies()
}

// hire reports whether resyncLoop has to be started, and takes it for started.
func (r *resyncState) hire() bool {
	if r.working || r.phase != resyncCopying {
		return false
	}
	r.working = true
	return true
}

// work returns the number of the overflow to copy for. Where there is none, or stop is
// set, it takes resyncLoop for ended.
func (r *resyncState) work(stop bool) (overflow int, ok bool) {
	r.working = r.phase == resyncCopying && !stop
	return r.overflows, r.working
}
