package adminhttp

import (
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/pollux-dr/pollux/internal/config"
)

// TestMetricsOverTLS: with metrics.tls, /metrics answers over HTTPS, and not in clear.
func TestMetricsOverTLS(t *testing.T) {
	donor := httptest.NewTLSServer(http.NotFoundHandler()) // for its certificate
	defer donor.Close()
	cert := donor.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := config.Metrics{Listen: freeAddress(t),
		TLS: config.TLS{Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key")}}
	for path, block := range map[string]*pem.Block{
		c.TLS.Cert: {Type: "CERTIFICATE", Bytes: cert.Certificate[0]},
		c.TLS.Key:  {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	h := HTTP{Log: slog.New(slog.DiscardHandler), Spawn: func(part func() error) { wg.Go(func() { _ = part() }) }}
	prom := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "pollux_up 1\n") })
	if err := h.ServeBeyond(config.Control{}, config.Identity{}, nil, c, prom); err != nil {
		t.Fatal(err)
	}
	defer func() { h.Close(); wg.Wait() }()
	got, err := donor.Client().Get("https://" + c.Listen + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(got.Body)
	_ = got.Body.Close()
	if string(b) != "pollux_up 1\n" {
		t.Errorf("%s: %q", got.Status, b)
	}
	if got, err := http.Get("http://" + c.Listen + "/metrics"); err == nil {
		b, _ := io.ReadAll(got.Body)
		_ = got.Body.Close()
		if strings.Contains(string(b), "pollux_up") {
			t.Errorf("in clear: %q", b)
		}
	}
}

// freeAddress is one that nobody listens on, as far as can be told.
func freeAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
