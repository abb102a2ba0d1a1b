package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Files of an authority's directory. ca.pem may hold several certificates: the
// newest first, and those before it while what they signed is in use.
const (
	CAFile    = "ca.pem"
	CAKeyFile = "ca.key"
)

const (
	caYears  = 10
	certDays = 397
	// clockSkew is how long before its making a certificate holds.
	clockSkew = time.Hour
)

var nameRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$`)

// InitCA makes an authority in dir, which must have none.
func InitCA(dir string, now time.Time) error {
	if _, err := os.Stat(filepath.Join(dir, CAKeyFile)); err == nil {
		return fail.New(fail.Exists, "create authority in", dir, "there is one").
			WithHint("pollux tls rotate replaces it")
	}
	if _, err := os.Lstat(filepath.Join(dir, CAFile)); err == nil {
		return fail.New(fail.Exists, "create authority in", dir, "there is a "+CAFile+" without its key").
			WithHint("name another directory; or remove the file, if a pollux tls init that was cut short has left it")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail.Wrap(fail.Denied, "create", dir, err)
	}
	return newCA(dir, nil, now)
}

// RotateCA makes a new authority beside those of which ca.pem still has the
// certificates. Both are trusted wherever that file is; what is issued from here
// on is signed by the new one.
func RotateCA(dir string, now time.Time) error {
	old, err := os.ReadFile(filepath.Join(dir, CAFile))
	if err != nil {
		return noCA(dir, err)
	}
	if _, _, err := loadCA(dir); err != nil {
		return err
	}
	return newCA(dir, stillValid(old, now), now) // in place of the old one's files
}

func noCA(dir string, err error) error {
	e := &fail.Error{Kind: fail.NotFound, Op: "open authority in", Object: dir, Err: err}
	return e.WithHint("pollux tls init makes one")
}

// stillValid drops certificates that have expired.
func stillValid(b []byte, now time.Time) []byte {
	var out []byte
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			return out
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil && now.Before(c.NotAfter) {
			out = append(out, pem.EncodeToMemory(block)...)
		}
	}
}

func newCA(dir string, others []byte, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{SerialNumber: serial(),
		Subject:   pkix.Name{CommonName: "Pollux authority " + now.UTC().Format("2006-01-02")},
		NotBefore: now.Add(-clockSkew), NotAfter: now.AddDate(caYears, 0, 0), IsCA: true, BasicConstraintsValid: true,
		MaxPathLenZero: true,
		KeyUsage:       x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return fail.Wrap(fail.Internal, "sign", "authority", err)
	}
	// The key last: without it the directory is not an authority yet.
	put := writeNew
	if others != nil {
		put = write
	}
	if err := put(filepath.Join(dir, CAFile), append(encodePEM("CERTIFICATE", der), others...), 0o644); err != nil {
		return err
	}
	return writeKey(put, filepath.Join(dir, CAKeyFile), key)
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return n
}

func encodePEM(what string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: what, Bytes: der})
}

func loadCA(dir string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	cb, err := os.ReadFile(filepath.Join(dir, CAFile))
	if err != nil {
		return nil, nil, noCA(dir, err)
	}
	kb, err := os.ReadFile(filepath.Join(dir, CAKeyFile))
	if err != nil {
		return nil, nil, noCA(dir, err)
	}
	damaged := func(name string, err error) error {
		return fail.Wrap(fail.Damaged, "read", filepath.Join(dir, name), err)
	}
	block, _ := pem.Decode(cb)
	if block == nil {
		return nil, nil, damaged(CAFile, errors.New("not PEM"))
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, damaged(CAFile, err)
	}
	if block, _ = pem.Decode(kb); block == nil {
		return nil, nil, damaged(CAKeyFile, errors.New("not PEM"))
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, damaged(CAKeyFile, err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || !ec.PublicKey.Equal(ca.PublicKey) {
		return nil, nil, damaged(CAKeyFile,
			errors.New("it is not the key of the first certificate in "+CAFile+
				"; a rotation was cut short: run it again"))
	}
	return ca, ec, nil
}

// Issue makes a certificate for a role and name in out: <role>-<name>.pem and
// .key, and a copy of the authority's ca.pem. Files of that name that are there already
// are fail.Exists, unless they are to be replaced. It returns the certificate's path and
// until when it holds.
func Issue(dir, out string, p Peer, replace bool, now time.Time) (path string, until time.Time, err error) {
	if !slices.Contains(Roles, p.Role) {
		return "", until, fail.New(fail.Invalid, "issue certificate for", string(p.Role), "no such role").
			WithHint("journal, agent, operator or reader")
	}
	if !nameRule.MatchString(p.Name) {
		return "", until, fail.New(fail.Invalid, "issue certificate for", p.Name,
			"letters, digits and _.- only, 100 at most, a letter or digit first")
	}
	ca, caKey, err := loadCA(dir)
	if err != nil {
		return "", until, err
	}
	if err := os.MkdirAll(out, 0o700); err != nil {
		return "", until, fail.Wrap(fail.Denied, "create", out, err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", until, err
	}
	until = now.AddDate(0, 0, certDays)
	if until.After(ca.NotAfter) {
		until = ca.NotAfter
	}
	tmpl := &x509.Certificate{SerialNumber: serial(), Subject: pkix.Name{CommonName: p.String()},
		URIs: []*url.URL{{Scheme: "pollux", Opaque: p.String()}}, NotBefore: now.Add(-clockSkew), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if p.Role == Journal || p.Role == Agent {
		tmpl.ExtKeyUsage = append(tmpl.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, &key.PublicKey, caKey)
	if err != nil {
		return "", until, fail.Wrap(fail.Internal, "sign", p.String(), err)
	}
	pool, err := os.ReadFile(filepath.Join(dir, CAFile))
	if err != nil {
		return "", until, noCA(dir, err)
	}
	base := filepath.Join(out, string(p.Role)+"-"+p.Name)
	put := write
	if !replace {
		put = writeNew
		if _, err := os.Lstat(base + ".pem"); err == nil { // before there is a key that does not belong to it
			return "", until, exists(base + ".pem")
		}
	}
	if err := writeKey(put, base+".key", key); err != nil {
		return "", until, err
	}
	if err := put(base+".pem", encodePEM("CERTIFICATE", der), 0o644); err != nil {
		return "", until, err
	}
	target := filepath.Join(out, CAFile)
	if have, err := os.ReadFile(target); err != nil || !bytes.Equal(have, pool) {
		return base + ".pem", until, write(target, pool, 0o644)
	}
	return base + ".pem", until, nil
}
