package config

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pollux-dr/pollux/internal/fail"
)

func TestSecrets(t *testing.T) {
	c, err := ParseAgent("agent.yaml",
		[]byte("name: a\ntls: {cert: c, key: /k, ca: a}\nnbd: {tls: {cert: c, key: /n}}\n"+
			"journal:\n  targets:\n    - {url: \"s3://bucket/p\", credentials_file: /s}\n    - {name: u, url: "+
			"\"s3://bucket/q\", credentials_file: /s}\n"))
	if err != nil {
		t.Fatal(err)
	}
	got := slices.Sorted(slices.Values(c.Secrets()))
	if !slices.Equal(got, []string{"/k", "/n", "/s"}) {
		t.Errorf("%v", got)
	}
	path := filepath.Join(t.TempDir(), "key")
	for mode, exposed := range map[os.FileMode]bool{0o600: false, 0o640: false, 0o400: false, 0o644: true, 0o604: true,
		0o602: true} {
		_ = os.Remove(path)
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if err := Exposed(path); (err != nil) != exposed || exposed && fail.HintOf(err) == "" {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
	if err := Exposed("/nowhere/key"); err != nil {
		t.Error(err)
	}
}
