package objstore

import (
	"crypto/x509"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// caTransport trusts the certificates of a file beside the system's, and reads it again
// when it changes: authorities are rotated under a running daemon.
type caTransport struct {
	op, file string // file may be ""

	mu       sync.Mutex
	current  *http.Transport
	modified time.Time
}

var _ http.RoundTripper = (*caTransport)(nil)

func (c *caTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	_ = c.refresh() // those in hand may still be good
	return c.now().RoundTrip(r)
}

// CloseIdleConnections closes what no request uses.
func (c *caTransport) CloseIdleConnections() { c.now().CloseIdleConnections() }

func (c *caTransport) now() *http.Transport {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current
}

// refresh reads the file, if it has changed.
func (c *caTransport) refresh() error {
	if c.file == "" {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	unreadable := func(err error) error {
		return &fail.Error{Kind: fail.Denied, Op: c.op, Object: c.file, Err: err,
			Hint: "name a readable file of certificates with ca_file"}
	}
	st, err := os.Stat(c.file) // before the content: a change in between is then seen later
	if err != nil {
		return unreadable(err)
	}
	if st.ModTime().Equal(c.modified) {
		return nil
	}
	pem, err := os.ReadFile(c.file)
	if err != nil {
		return unreadable(err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return fail.New(fail.Invalid, c.op, c.file, "no certificate in PEM format in this file")
	}
	next := c.current.Clone()
	next.TLSClientConfig.RootCAs = pool
	c.current.CloseIdleConnections()
	c.current, c.modified = next, st.ModTime()
	return nil
}
