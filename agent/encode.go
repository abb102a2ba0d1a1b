package agent

import (
	"sync"

	"github.com/pollux-dr/pollux/internal/change"
)

// encodeState is what encodes a stream's frames, and the end of the chain that they
// make. Its lock is held while frames are encoded and appended, so that their order in
// the WAL is theirs; it guards all of this, and nothing else does.
type encodeState struct {
	mu      sync.Mutex
	frames  change.Encoder
	tail    change.Point    // the newest frame in the WAL
	changes []change.Change // scratch of describe
	parts   [][]byte        // the payloads that changes refers to
}

// describe tells the encoder of recs. Called with enc.mu held.
func (s *stream) describe(recs []rec) []change.Change {
	e := &s.enc
	e.changes, e.parts = e.changes[:0], e.parts[:0]
	for i := range recs {
		r := &recs[i]
		from := len(e.parts)
		e.parts = s.a.mem.Pieces(e.parts, r.Buf)
		e.changes = append(e.changes, change.Change{Kind: r.Kind, Volume: r.Volume, Off: r.Off, Len: r.Len,
			Data: e.parts[from:len(e.parts):len(e.parts)]})
	}
	return e.changes
}
