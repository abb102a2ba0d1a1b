package pki

import (
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

func issue(t *testing.T, dir string, p Peer, now time.Time) Files {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	cert, _, err := Issue(dir, out, p, false, now)
	if err != nil {
		t.Fatal(err)
	}
	f := Files{Cert: cert, Key: strings.TrimSuffix(cert, ".pem") + ".key", CA: filepath.Join(out, CAFile)}
	if got, err := f.Check(); err != nil || got != p {
		t.Fatalf("checked as %v, %v", got, err)
	}
	if st, err := os.Stat(f.Key); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("key file %v, %v", st.Mode(), err)
	}
	return f
}

// meet lets a client speak to a server; it returns whom the server saw.
func meet(t *testing.T, server, client Files) (Peer, error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	_ = a.SetDeadline(time.Now().Add(5 * time.Second))
	_ = b.SetDeadline(time.Now().Add(5 * time.Second))
	done := make(chan error, 1)
	go func() {
		c := tls.Client(b, client.Client(Journal))
		err := c.Handshake()
		if err == nil { // TLS 1.3: the server's refusal comes with the first read
			_, err = c.Read(make([]byte, 1))
		}
		done <- err
		_ = b.Close()
	}()
	s := tls.Server(a, server.Server())
	p, err := PeerOf(s)
	if err == nil {
		_, err = s.Write([]byte{1})
	}
	_ = a.Close()
	if cerr := <-done; err == nil {
		err = cerr
	}
	return p, err
}

func TestRoles(t *testing.T) {
	now := time.Now()
	dir := filepath.Join(t.TempDir(), "ca")
	if err := InitCA(dir, now); err != nil {
		t.Fatal(err)
	}
	if err := InitCA(dir, now); !fail.Is(err, fail.Exists) {
		t.Errorf("again: %v", err)
	}
	journal := issue(t, dir, Peer{Journal, "j1"}, now)
	for _, p := range []Peer{{Agent, "host1"}, {Operator, "kim"}, {Reader, "nagios"}, {Journal, "j2"}} {
		if got, err := meet(t, journal, issue(t, dir, p, now)); err != nil || got != p {
			t.Errorf("%v came as %v, %v", p, got, err)
		}
	}
	if _, err := meet(t, issue(t, dir, Peer{Agent, "host1"}, now), journal); err == nil {
		t.Error("an agent passes for a journal")
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := InitCA(other, now); err != nil {
		t.Fatal(err)
	}
	if _, err := meet(t, journal, issue(t, other, Peer{Operator, "eve"}, now)); err == nil {
		t.Error("another authority's certificate is taken")
	}
	if _, err := meet(t, journal, issue(t, dir, Peer{Agent, "old"}, now.AddDate(-2, 0, 0))); err == nil {
		t.Error("an expired certificate is taken")
	}
	if _, _, err := Issue(dir, dir, Peer{"king", "x"}, false, now); !fail.Is(err, fail.Invalid) {
		t.Errorf("role king: %v", err)
	}
	if _, _, err := Issue(dir, dir, Peer{Agent, "a/b"}, false, now); !fail.Is(err, fail.Invalid) {
		t.Errorf("name a/b: %v", err)
	}
	if _, _, err := Issue(t.TempDir(), dir, Peer{Agent, "a"}, false, now); !fail.Is(err, fail.NotFound) {
		t.Errorf("no authority: %v", err)
	}
}

// TestRotate replaces the authority: whoever has the new ca.pem takes certificates
// of both, and an end that was not touched is served until then.
func TestRotate(t *testing.T) {
	now := time.Now()
	dir := filepath.Join(t.TempDir(), "ca")
	if err := RotateCA(dir, now); !fail.Is(err, fail.NotFound) {
		t.Errorf("nothing to rotate: %v", err)
	}
	if err := InitCA(dir, now); err != nil {
		t.Fatal(err)
	}
	oldJournal, oldAgent := issue(t, dir, Peer{Journal, "j"}, now), issue(t, dir, Peer{Agent, "a"}, now)
	if err := RotateCA(dir, now); err != nil {
		t.Fatal(err)
	}
	newJournal, newAgent := issue(t, dir, Peer{Journal, "j"}, now), issue(t, dir, Peer{Agent, "a"}, now)
	if _, err := meet(t, newJournal, oldAgent); err == nil {
		t.Error("an agent without the new ca.pem trusts a certificate of the new authority")
	}
	pool, err := os.ReadFile(newAgent.CA)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []Files{oldJournal, oldAgent} { // step 1 of the rotation: everyone gets the new ca.pem
		if err := os.WriteFile(f.CA, pool, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, pair := range [][2]Files{{newJournal, oldAgent}, {oldJournal, newAgent}, {newJournal, newAgent},
		{oldJournal, oldAgent}} {
		if _, err := meet(t, pair[0], pair[1]); err != nil {
			t.Errorf("%s and %s: %v", pair[0].Cert, pair[1].Cert, err)
		}
	}
}

func TestLocal(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	p, err := PeerOf(a)
	if err != nil || !p.Is(Operator) || !p.Is() {
		t.Errorf("%v, %v", p, err)
	}
	if (Peer{Reader, "r"}).Is(Operator, Journal) {
		t.Error("a reader is an operator")
	}
}
