package objstore

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/pki"
)

// TestCAFileIsReadAgain: a store whose authority is replaced is trusted when the file is.
func TestCAFileIsReadAgain(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	dir := t.TempDir()
	if err := pki.InitCA(dir, time.Now()); err != nil { // another one
		t.Fatal(err)
	}
	file := filepath.Join(dir, pki.CAFile)
	c, err := newTransport("open", Options{CAFile: file, MaxConnections: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseIdleConnections()
	get := func() error {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.RoundTrip(r)
		if err == nil {
			err = resp.Body.Close()
		}
		return err
	}
	if hint := pki.CauseHint(get(), "ca_file"); hint == "" {
		t.Error("an authority that the file does not name is trusted, or its error names no cause")
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(file, time.Time{}, time.Now().Add(time.Minute)); err != nil { // whatever the clock's step
		t.Fatal(err)
	}
	if err := get(); err != nil {
		t.Errorf("after the file was replaced: %v", err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := get(); err != nil {
		t.Errorf("without the file, with what it said: %v", err)
	}
}
