package twosites

import (
	"context"
	"time"

	"github.com/pollux-dr/pollux/internal/nbdclient"
)

// Parked is a client that was attached to a volume at a host where it is not served yet, and waits.
type Parked struct {
	conn   *nbdclient.Conn
	pulse  *Pulse
	answer chan answered
}

type answered struct {
	pause time.Duration
	err   error
}

// Park attaches a client at a standby that parks clients, and has it read.
func (v *Volume) Park(ctx context.Context, h *Host) (*Parked, error) {
	p := &Parked{pulse: &v.Pulse, answer: make(chan answered, 1)}
	err := h.Until(ctx, startTimeout, "a client of volume "+v.Name+" is parked", func() (err error) {
		p.conn, err = nbdclient.Dial(ctx, h.URI(v.Name), nil)
		return err
	})
	if err != nil {
		return nil, err
	}
	err = p.conn.Submit(&nbdclient.Request{Op: nbdclient.Read, Data: make([]byte, BlockBytes),
		Done: func(r *nbdclient.Request) { p.answer <- answered{p.pulse.silence(), r.Err} }})
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// Pause waits for the answer, and returns for how long nobody had one before it.
func (p *Parked) Pause(ctx context.Context) (time.Duration, error) {
	select {
	case a := <-p.answer:
		return a.pause, a.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// Close ends the connection.
func (p *Parked) Close() { _ = p.conn.Close() }
