package objstore

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/internal/fail"
)

// TestCredentialsAreNotQuoted: whatever is wrong with a file, its content is in no error.
func TestCredentialsAreNotQuoted(t *testing.T) {
	const secret = "wJalrXUtnFEMIK7MDENGbPxRfiCYzEXAMPLEKEY"
	t.Setenv("AWS_PROFILE", "")
	for content, says := range map[string]string{
		secret: "AWS format",
		"[default]\naws_secret_access_key " + secret + "\n":                        "AWS format",
		"[default\n" + secret:                                                      "AWS format",
		"[" + secret + "\nx = y\n":                                                 "AWS format",
		"[default]\nx = \"\"\"" + secret:                                           "AWS format",
		"[default]\naws_secret_access_key = " + secret + "\n":                      "only one of",
		"[other]\naws_access_key_id = A\naws_secret_access_key = " + secret + "\n": "no profile default",
		"[default]\ncredential_process = /bin/echo " + secret + "\n":               "AWS format",
		"[default]\naws_access_key_id = A\naws_secret_access_key " + secret + "\n": "AWS format",
	} {
		path := filepath.Join(t.TempDir(), "credentials")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := newCredentials("open", path)
		if !fail.Is(err, fail.Denied) {
			t.Errorf("%q: %v", content, err)
			continue
		}
		if strings.Contains(err.Error(), secret[:8]) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", content, err)
		}
	}
	if _, err := newCredentials("open", "/nowhere/credentials"); err == nil ||
		!strings.Contains(err.Error(), "no such file") {
		t.Errorf("no file: %v", err)
	}
}
