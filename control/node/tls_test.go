package node

import (
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/adminhttp"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/pki"
)

// TestNBDCertificatesAreReadAgain: a renewed certificate, and a replaced CA of clients, need
// no restart.
func TestNBDCertificatesAreReadAgain(t *testing.T) {
	dir, out, now := t.TempDir(), t.TempDir(), time.Now()
	if err := pki.InitCA(dir, now); err != nil {
		t.Fatal(err)
	}
	issue := func() {
		if _, _, err := pki.Issue(dir, out, pki.Peer{Role: pki.Agent, Name: "a"}, true, now); err != nil {
			t.Fatal(err)
		}
	}
	issue()
	c := config.TLS{Cert: filepath.Join(out, "agent-a.pem"), Key: filepath.Join(out, "agent-a.key"),
		ClientCA: filepath.Join(out, pki.CAFile)}
	conf, err := adminhttp.LoadTLS(c)
	if err != nil {
		t.Fatal(err)
	}
	shown := func() string {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		s := tls.Server(a, conf)
		go func() { _ = s.Handshake() }()
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			t.Fatal(err)
		}
		client := tls.Client(b, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}})
		if err := client.Handshake(); err != nil {
			t.Fatal(err)
		}
		return client.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	first := shown()
	issue()
	if second := shown(); second == first {
		t.Error("the old certificate is shown still")
	}
	if err := os.Remove(c.Cert); err != nil {
		t.Fatal(err)
	}
	if _, err := adminhttp.LoadTLS(c); err == nil {
		t.Error("a missing certificate is no error at the start")
	}
}
