package pki

import (
	"crypto/x509"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

func TestExpiry(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	if err := InitCA(dir, now); err != nil {
		t.Fatal(err)
	}
	f := issue(t, dir, Peer{Journal, "j"}, now)
	until, err := Until(f.Cert)
	if err != nil || until.Sub(now).Round(24*time.Hour) != certDays*24*time.Hour {
		t.Errorf("a certificate's end: %v, %v", until, err)
	}
	if ca, err := Until(f.CA); err != nil || !ca.After(now.AddDate(9, 0, 0)) {
		t.Errorf("an authority's end: %v, %v", ca, err)
	}
	for before, want := range map[time.Duration]struct {
		says   string
		urgent bool
	}{31 * 24 * time.Hour: {"", false}, 30 * 24 * time.Hour: {"in 30 days", false},
		8 * 24 * time.Hour: {"in 8 days", false},
		7 * 24 * time.Hour: {"in 7 days", true}, time.Hour: {"in 0 days", true}, -time.Hour: {"has expired", true}} {
		says, urgent := Expiry(until, until.Add(-before))
		if urgent != want.urgent || !strings.Contains(says, want.says) || (says == "") != (want.says == "") {
			t.Errorf("%v before: %q, %v", before, says, urgent)
		}
	}
	if _, err := Until(filepath.Join(dir, CAKeyFile)); err == nil {
		t.Error("a key has an end")
	}
}

// TestHintNamesTheCause: an expired certificate is not called that of an unknown authority.
func TestHintNamesTheCause(t *testing.T) {
	dir, other, now := t.TempDir(), t.TempDir(), time.Now()
	for _, d := range []string{dir, other} {
		if err := InitCA(d, now); err != nil {
			t.Fatal(err)
		}
	}
	good := issue(t, dir, Peer{Journal, "j"}, now)
	foreign := issue(t, other, Peer{Journal, "j"}, now)
	old := issue(t, dir, Peer{Journal, "k"}, now.AddDate(-2, 0, 0))
	for _, tc := range []struct {
		name  string
		shown Files
		says  string
	}{{"good", good, ""}, {"expired", old, "has expired on"}, {"another authority", foreign, "not trusted"}} {
		pair, err := tc.shown.pair()
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(pair.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		err = good.verify([]*x509.Certificate{leaf}, x509.ExtKeyUsageServerAuth, []Role{Journal})
		if hint := fail.HintOf(err); (err == nil) != (tc.says == "") || !strings.Contains(hint, tc.says) {
			t.Errorf("%s: %v, hint %q", tc.name, err, hint)
		}
	}
}
