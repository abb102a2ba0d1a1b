package listen

import (
	"slices"
	"sync"
)

// Places bounds connections: all of them, and those of one peer. It is safe for
// concurrent use.
type Places struct {
	max, each int

	mu    sync.Mutex
	taken []*place // the oldest first
}

type place struct {
	peer string
	end  func()
}

// NewPlaces has room for max connections, of one peer for each.
func NewPlaces(max, each int) *Places { return &Places{max: max, each: min(each, max)} }

// Enter takes a place for a connection of peer until leave is called, which may be
// called again. A peer with all the places that it may have loses its oldest
// connection, which is told by its end: whatever a peer does, it is at its own cost.
// Without a place that is not another peer's, ok is false and leave nil. A peer without
// a name is as many peers as it has connections.
func (p *Places) Enter(peer string, end func()) (leave func(), ok bool) {
	own := &place{peer: peer, end: end}
	p.mu.Lock()
	evicted := p.crowded(peer)
	if evicted != nil {
		p.remove(evicted)
	} else if len(p.taken) >= p.max {
		p.mu.Unlock()
		return nil, false
	}
	p.taken = append(p.taken, own)
	p.mu.Unlock()
	if evicted != nil {
		evicted.end()
	}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.remove(own)
	}, true
}

// crowded is the oldest place of a peer that has all that it may have. Called with mu
// held.
func (p *Places) crowded(peer string) (oldest *place) {
	if peer == "" {
		return nil
	}
	n := 0
	for _, t := range p.taken {
		if t.peer != peer {
			continue
		}
		if n++; oldest == nil {
			oldest = t
		}
	}
	if n < p.each {
		return nil
	}
	return oldest
}

func (p *Places) remove(own *place) {
	if i := slices.Index(p.taken, own); i >= 0 {
		p.taken = slices.Delete(p.taken, i, i+1)
	}
}

// Lobby holds connections that have not said yet who they are. When it is full, the
// one that has been silent for longest goes.
type Lobby struct{ places *Places }

// NewLobby has room for max connections.
func NewLobby(max int) Lobby { return Lobby{NewPlaces(max, max)} }

// Enter takes a connection in until leave is called, which may be called again. Its end
// is called when it has to go.
func (l Lobby) Enter(end func()) (leave func()) {
	leave, _ = l.places.Enter("newcomer", end) // one peer with a share of all: it always gets in
	return leave
}
