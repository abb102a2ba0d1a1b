package pki

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// How long before it expires a certificate is warned of, and when that becomes urgent.
const (
	WarnBefore   = 30 * 24 * time.Hour
	UrgentBefore = 7 * 24 * time.Hour
)

// Until is when the certificate in a PEM file ends to hold: the first one's end, or, in a
// file of authorities, that of the one that lasts longest.
func Until(path string) (until time.Time, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return until, fail.Wrap(fail.Denied, "read certificate", path, err)
	}
	for first := true; ; first = false {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return until, fail.Wrap(fail.Invalid, "read certificate", path, err)
		}
		if c.NotAfter.After(until) {
			until = c.NotAfter
		}
		if first && !c.IsCA {
			break
		}
	}
	if until.IsZero() {
		return until, fail.New(fail.Invalid, "read certificate", path, "no certificate in it")
	}
	return until, nil
}

// Expiry says in words that a certificate holds for a short time only, or no more; it is
// empty while there is time.
func Expiry(until, now time.Time) (warning string, urgent bool) {
	switch left := until.Sub(now); {
	case left <= 0:
		return "it has expired on " + until.UTC().Format(time.DateOnly), true
	case left <= WarnBefore:
		return fmt.Sprintf("it expires on %s, in %d days", until.UTC().Format(time.DateOnly), int(left.Hours()/24)),
			left <= UrgentBefore
	}
	return "", false
}

// CauseHint says what is wrong with the other side's certificate, where err is about one;
// authority is where those that are trusted are named.
func CauseHint(err error, authority string) string {
	var invalid x509.CertificateInvalidError
	var host x509.HostnameError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil &&
		time.Now().Before(invalid.Cert.NotBefore):
		return "its certificate does not hold yet, from " + invalid.Cert.NotBefore.UTC().Format(time.RFC3339) +
			" on: is this host's clock right?"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil:
		return "its certificate has expired on " + invalid.Cert.NotAfter.UTC().Format(time.DateOnly) +
			": renew it there, or set this host's clock"
	case errors.As(err, &invalid):
		return "its certificate is not one for this use: " + invalid.Error()
	case errors.As(err, &host):
		return "its certificate is for another name: use a name that it holds, or have it renewed for this one"
	case errors.As(err, &unknown):
		return "its certificate is of an authority that is not trusted here: " + authority
	}
	return ""
}
