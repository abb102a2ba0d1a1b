package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Role is what a certificate's holder may do.
type Role string

const (
	Journal  Role = "journal"  // a member: takes part in Raft, serves the others
	Agent    Role = "agent"    // writes the streams of the agent of its name
	Operator Role = "operator" // changes state
	Reader   Role = "reader"   // looks at it
)

// Roles are all there are.
var Roles = []Role{Journal, Agent, Operator, Reader}

// Peer is who is at the other end of a connection.
type Peer struct {
	Role Role
	Name string
}

func (p Peer) String() string { return string(p.Role) + "/" + p.Name }

// Local is the peer of a unix socket or of a connection that is not TLS: whoever
// may open it may do everything.
var Local = Peer{Role: "local"}

// Is reports whether the peer has one of the roles, or is local.
func (p Peer) Is(roles ...Role) bool { return p.Role == Local.Role || slices.Contains(roles, p.Role) }

// Files are the PEM files of one end.
type Files struct{ Cert, Key, CA string }

// Check reads the files once, for an error at the start rather than at the first
// connection. It returns the certificate's own role and name.
func (f Files) Check() (Peer, error) {
	cert, err := f.pair()
	if err != nil {
		return Peer{}, err
	}
	if _, err := f.pool(); err != nil {
		return Peer{}, err
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return Peer{}, fail.Wrap(fail.Invalid, "load certificate", f.Cert, err)
	}
	p, err := peerOf(leaf)
	return p, fail.At("load certificate", f.Cert, err)
}

func (f Files) pair() (*tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		e := &fail.Error{Kind: fail.Invalid, Op: "load certificate", Object: f.Cert, Err: err}
		return nil, e.WithHint("pollux tls issue makes one; the key must belong to it and be readable")
	}
	return &c, nil
}

func (f Files) pool() (*x509.CertPool, error) {
	pem, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, fail.Wrap(fail.Invalid, "load", f.CA, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fail.New(fail.Invalid, "load", f.CA, "no certificate in it")
	}
	return pool, nil
}

// config makes settings that are the same for both ends: each shows its certificate
// and verifies the other's chain and role.
func (f Files) config(usage x509.ExtKeyUsage, want []Role) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequireAnyClientCert,
		// The chain is verified below: there are no host names to compare.
		InsecureSkipVerify:   true,
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.pair() },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return f.pair() },
		VerifyConnection: func(s tls.ConnectionState) error {
			return f.verify(s.PeerCertificates, usage, want)
		},
	}
}

func (f Files) verify(chain []*x509.Certificate, usage x509.ExtKeyUsage, want []Role) error {
	if len(chain) == 0 {
		return fail.New(fail.Denied, "verify", "peer", "it shows no certificate")
	}
	roots, err := f.pool()
	if err != nil {
		return err
	}
	o := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{usage}}
	for _, c := range chain[1:] {
		o.Intermediates.AddCert(c)
	}
	if _, err := chain[0].Verify(o); err != nil {
		e := &fail.Error{Kind: fail.Denied, Op: "verify certificate of", Object: chain[0].Subject.CommonName, Err: err}
		return e.WithHint(CauseHint(err, f.CA))
	}
	p, err := peerOf(chain[0])
	if err != nil {
		return err
	}
	if !slices.Contains(want, p.Role) {
		return fail.New(fail.Denied, "verify", p.String(), "its role is not one of those that are wanted here: "+
			fmt.Sprint(want))
	}
	return nil
}

// Server is for listeners: any role may come, and what it may do is decided by
// PeerOf.
func (f Files) Server() *tls.Config { return f.config(x509.ExtKeyUsageClientAuth, Roles) }

// Client is for connections to an end of one of the roles want.
func (f Files) Client(want ...Role) *tls.Config {
	return f.config(x509.ExtKeyUsageServerAuth, want)
}

// peerOf reads role and name.
func peerOf(c *x509.Certificate) (Peer, error) {
	for _, u := range c.URIs {
		if u.Scheme != "pollux" {
			continue
		}
		role, name, ok := strings.Cut(u.Opaque, "/")
		if ok && name != "" && slices.Contains(Roles, Role(role)) {
			return Peer{Role(role), name}, nil
		}
	}
	return Peer{}, fail.New(fail.Denied, "read certificate of", c.Subject.CommonName,
		"it names no role: a URI such as pollux:agent/host1").
		WithHint("pollux tls issue makes such certificates")
}

// PeerOfState is PeerOf for a connection whose handshake is done; nil is none, and
// so local.
func PeerOfState(s *tls.ConnectionState) (Peer, error) {
	if s == nil {
		return Local, nil
	}
	return peerOf(s.PeerCertificates[0])
}

// PeerOf is who is at the other end. A TLS handshake that is due is done.
func PeerOf(c net.Conn) (Peer, error) {
	t, ok := c.(*tls.Conn)
	if !ok {
		return Local, nil
	}
	if err := t.Handshake(); err != nil {
		return Peer{}, fail.Wrap(fail.Denied, "shake hands with", c.RemoteAddr().String(), err)
	}
	return peerOf(t.ConnectionState().PeerCertificates[0])
}

const dialTimeout = 3 * time.Second

// Dial connects to a member of a journal; in clear where there are no files, which
// the configuration allows on loopback only.
func (f Files) Dial(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	if f == (Files{}) {
		return d.DialContext(ctx, "tcp", address)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*dialTimeout)
	defer cancel()
	t := tls.Dialer{NetDialer: &d, Config: f.Client(Journal)}
	c, err := t.DialContext(ctx, "tcp", address)
	if noTLS(err) {
		e := fail.Error{Kind: fail.Retry, Op: "shake hands with", Object: address, Err: err}
		return nil, e.WithHint("it probably listens without tls: set tls on both sides, or on neither")
	}
	return c, err
}

// noTLS reports whether a handshake ended as it does where the other end does not speak
// TLS: it answers something else, or takes the handshake for nonsense and closes.
func noTLS(err error) bool {
	strange := tls.RecordHeaderError{}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.As(err, &strange)
}

// Listen takes connections; in clear where there are no files.
func (f Files) Listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fail.Wrap(fail.Refused, "listen on", address, err)
	}
	if f == (Files{}) {
		return l, nil
	}
	return tls.NewListener(l, f.Server()), nil
}
