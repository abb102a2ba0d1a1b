package logtest

import (
	"bytes"
	"maps"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/replicator/state"
)

// Place is one in the log that a later fence can go back to.
type Place struct {
	point  change.Point
	index  uint64
	images map[string][]byte
	gap    change.Point
}

// Here is the present place: between two objects, or in the midst of the next one, which must have no folds then.
func (l *Log) Here() *Place {
	p := &Place{point: l.Point, index: l.index + uint64(len(l.entries)), images: map[string][]byte{}, gap: l.gap}
	for name, img := range l.Images {
		p.images[name] = bytes.Clone(img)
	}
	return p
}

// GoBack puts a fence of the next epoch behind which history goes on from an earlier place:
// what lies between is a dead branch, volumes that were made there included.
func (l *Log) GoBack(p *Place) {
	l.T.Helper()
	l.entries, l.bodies = nil, nil
	l.token.Epoch++
	l.Point, l.index, l.gap = p.point, p.index, p.gap
	for name, img := range p.images {
		copy(l.Images[name], img)
	}
	for name := range l.Volumes {
		if p.images[name] == nil {
			delete(l.Volumes, name)
			delete(l.Images, name)
			l.number--
		}
	}
	dead := func(lsn uint64) bool { return lsn > p.point.LSN }
	maps.DeleteFunc(l.History, func(lsn uint64, _ map[string][]byte) bool { return dead(lsn) })
	maps.DeleteFunc(l.Exact, func(lsn uint64, _ bool) bool { return dead(lsn) })
	for lsn := range l.Times {
		if dead(lsn) {
			delete(l.Times, lsn)
		}
	}
	l.Fence()
}

// Leap begins a resync, or goes on in one: the stream leaves n LSNs out.
func (l *Log) Leap(n uint64) {
	l.leaps++
	to := change.Point{LSN: l.Point.LSN + n, Hash: change.Hash{byte(n), byte(l.leaps), 0xee}}
	l.Command(state.KindResyncBegin, state.ResyncBegin{Stream: l.Stream, Gap: state.Gap{From: l.Point, To: to}})
	l.Point, l.gap = to, to
}

// EndLeap ends the resync: the present LSN is a point again.
func (l *Log) EndLeap() {
	l.Command(state.KindResyncEnd, state.ResyncEnd{Stream: l.Stream, To: l.gap, LSN: l.Point.LSN})
}
