package nbd

import (
	"crypto/tls"

	"golang.org/x/sync/semaphore"

	"github.com/pollux-dr/pollux/internal/listen"
)

// minNewcomers of a listener may negotiate at the same time, or as many as there may be
// connections: after a restart, all of them come at once. The next one takes the place of
// the one that has done so for longest.
const minNewcomers = 64

// door bounds what the connections of one listener hold. Each listener has its own, so
// that no client of another host keeps out or holds up this host's.
type door struct {
	newcomers listen.Lobby
	sessions  *listen.Places
	receive   *semaphore.Weighted // bytes of payloads in reception
}

func newDoor(o *Options) *door {
	return &door{newcomers: listen.NewLobby(max(minNewcomers, o.MaxConnections)),
		sessions: listen.NewPlaces(o.MaxConnections, max(1, o.MaxConnections*3/4)),
		receive:  semaphore.NewWeighted(o.ReceiveBudgetBytes)}
}

// enter takes a place among those that have an export, and says whether there was one.
func (c *conn) enter() bool {
	d := c.door
	leave, ok := d.sessions.Enter(c.client(), c.kill)
	if !ok && c.srv.reap(d) {
		leave, ok = d.sessions.Enter(c.client(), c.kill)
	}
	if !ok {
		c.log.Warn("nbd: too many connections", "limit", c.srv.opts.MaxConnections)
		return false
	}
	c.place.Store(&leave)
	c.known()
	return true
}

// leave gives up its place, if it has one.
func (c *conn) leave() {
	if leave := c.place.Load(); leave != nil {
		(*leave)()
	}
}

// client names who shows a certificate, and nobody else.
func (c *conn) client() string {
	t, ok := c.nc.(*tls.Conn)
	if !ok {
		return ""
	}
	if shown := t.ConnectionState().PeerCertificates; len(shown) > 0 {
		return shown[0].Subject.String()
	}
	return ""
}

// reap ends a door's connections whose clients have left unnoticed, because their
// readers are held up in the device. It says whether there were any.
func (s *Server) reap(d *door) (some bool) {
	for _, c := range s.snapshot() {
		if c.door == d && peerGone(c.raw) {
			c.kill()
			c.leave()
			some = true
		}
	}
	return some
}
