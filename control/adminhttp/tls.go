package adminhttp

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"

	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
)

// ListenTCP listens on an address, with TLS where files for that are named.
func ListenTCP(address string, c config.TLS) (net.Listener, error) {
	var conf *tls.Config
	if c.Cert != "" {
		var err error
		if conf, err = LoadTLS(c); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fail.Wrap(fail.Refused, "listen on", address, err)
	}
	if conf != nil {
		l = tls.NewListener(l, conf)
	}
	return l, nil
}

// LoadTLS reads a server's files once, for an error at the start, and again for each
// connection.
func LoadTLS(c config.TLS) (*tls.Config, error) {
	if _, err := readTLS(c); err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return readTLS(c) }}, nil
}

func readTLS(c config.TLS) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, fail.Wrap(fail.Invalid, "load certificate", c.Cert, err)
	}
	conf := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	if c.ClientCA != "" {
		pem, err := os.ReadFile(c.ClientCA)
		if err != nil {
			return nil, fail.Wrap(fail.Invalid, "load", c.ClientCA, err)
		}
		conf.ClientCAs = x509.NewCertPool()
		if !conf.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, fail.New(fail.Invalid, "load", c.ClientCA, "no certificate in it")
		}
		conf.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return conf, nil
}
