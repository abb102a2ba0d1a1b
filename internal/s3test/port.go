package s3test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
)

// Ports are taken below the range from which Linux gives ports to outgoing
// connections and to listeners that ask for any, so that none of these can get
// a server's port between its kill and its restart.
const firstPort, lastPort = 20000, 30000

// port is a TCP port of loopback that no other Server, in whatever process, has.
type port struct {
	number int
	claim  net.Listener // an abstract socket: gone with the process
}

func (p *port) release() error { return p.claim.Close() }

func (p *port) address() string { return fmt.Sprintf("127.0.0.1:%d", p.number) }

func reservePort() (*port, error) {
	var last error
	for range 200 {
		n := firstPort + rand.IntN(lastPort-firstPort)
		claim, err := net.Listen("unix", fmt.Sprintf("@pollux-s3test-%d", n))
		if err != nil {
			last = err
			continue
		}
		p := &port{number: n, claim: claim}
		l, err := net.Listen("tcp", p.address())
		if err == nil {
			err = l.Close()
		}
		if err == nil {
			return p, nil
		}
		last = errors.Join(err, p.release())
	}
	return nil, fmt.Errorf("no free port on loopback: %w", last)
}
