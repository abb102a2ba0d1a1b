package faultproxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
)

// conn is a client's connection and the one to the server that belongs to it.
type conn struct {
	p      *Proxy
	client net.Conn

	mu     sync.Mutex
	server net.Conn
	dead   bool
	bytes  int64 // forwarded, both ways
}

// connected takes the server's connection; false if the client's is gone.
func (c *conn) connected(server net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.server = server
	if c.dead {
		_ = server.Close()
	}
	return !c.dead
}

// reset ends both connections at once, without the good manners of a FIN.
func (c *conn) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return
	}
	c.dead = true
	for _, x := range []net.Conn{c.client, c.server} {
		if tcp, ok := x.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
			_ = tcp.Close()
		}
	}
}

var errCut = errors.New("connection cut")

// count writes to w what CutAfter leaves, and stops while the proxy stalls.
func (c *conn) count(w io.Writer) io.Writer {
	return writerFunc(func(b []byte) (int, error) {
		if err := c.p.wait(0); err != nil {
			return 0, err
		}
		c.p.mu.Lock()
		limit := c.p.faults.CutAfter
		c.p.mu.Unlock()
		c.mu.Lock()
		n := len(b)
		if limit > 0 {
			n = int(min(int64(n), max(0, limit-c.bytes)))
		}
		c.bytes += int64(n)
		c.mu.Unlock()
		if err := c.p.send(n); err != nil {
			return 0, err
		}
		written, err := w.Write(b[:n])
		if err == nil && n < len(b) {
			err = errCut
		}
		return written, err
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// serveHTTP forwards request after request until one side or a fault ends it.
func (c *conn) serveHTTP() {
	fromClient, fromServer := bufio.NewReader(c.client), bufio.NewReader(c.server)
	for {
		req, err := http.ReadRequest(fromClient)
		if err != nil {
			return
		}
		faults, drop, status := c.p.fate()
		if c.p.wait(faults.Delay) != nil {
			return
		}
		if status {
			err = c.refuse(req, faults.Status)
		} else {
			err = c.forward(req, fromServer, drop)
		}
		if err != nil || req.Close {
			return
		}
	}
}

func (c *conn) forward(req *http.Request, fromServer *bufio.Reader, drop bool) error {
	toServer := bufio.NewWriterSize(c.count(c.server), 32<<10)
	if err := req.Write(toServer); err != nil {
		return err
	}
	if err := toServer.Flush(); err != nil {
		return err
	}
	resp, err := http.ReadResponse(fromServer, req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // only read
	if drop {
		// To its end: then the server has done what it was asked.
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return err
		}
		return errCut
	}
	toClient := bufio.NewWriterSize(c.count(c.client), 32<<10)
	if err := resp.Write(toClient); err != nil {
		return err
	}
	if err := toClient.Flush(); err != nil {
		return err
	}
	if resp.Close {
		return io.EOF
	}
	return nil
}

// refuse answers in the server's stead, as S3 writes its errors.
func (c *conn) refuse(req *http.Request, status int) error {
	if _, err := io.Copy(io.Discard, req.Body); err != nil {
		return err
	}
	code := map[int]string{
		http.StatusServiceUnavailable: "SlowDown", http.StatusInternalServerError: "InternalError",
		http.StatusForbidden: "AccessDenied", http.StatusTooManyRequests: "TooManyRequests",
	}[status]
	body := fmt.Sprintf("<?xml version=\"1.0\"?>\n<Error><Code>%s</Code><Message>injected "+
		"%s</Message><RequestId>faultproxy</RequestId></Error>",
		code, http.StatusText(status))
	head := fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n", status,
		http.StatusText(status), len(body))
	if req.Method == http.MethodHead {
		body = ""
	}
	_, err := io.WriteString(c.client, head+body)
	return err
}
