package config

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/pollux-dr/pollux/internal/fail"
)

// What the settings end in that name files of each kind.
var (
	secretEnds      = []string{".key", ".credentials_file"}
	certificateEnds = []string{".cert", ".ca", ".client_ca", ".ca_file"}
)

// Secrets are the files of a configuration that nobody else should be able to read: keys
// and credentials.
func (c *Agent) Secrets() []string { return ending(c.files(), secretEnds) }

// Secrets is as for an agent.
func (c *JournalHost) Secrets() []string { return ending(c.files(), secretEnds) }

// Certificates are the files of a configuration that hold certificates, which expire.
func (c *Agent) Certificates() []string {
	return ending(c.files(), certificateEnds)
}

// Certificates is as for an agent.
func (c *JournalHost) Certificates() []string {
	return ending(c.files(), certificateEnds)
}

// ending is each file once whose setting ends in one of those.
func ending(files []named, ends []string) (out []string) {
	for _, f := range files {
		if f.value != "" && !slices.Contains(out, f.value) &&
			slices.ContainsFunc(ends, func(end string) bool { return strings.HasSuffix(f.setting, end) }) {
			out = append(out, f.value)
		}
	}
	return out
}

// Exposed is an error that names a secret file which any user of this host can read or
// change; nil where there is none, or no such file.
func Exposed(path string) error {
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm()&0o006 == 0 {
		return nil // whoever needs it says so
	}
	return fail.New(fail.Denied, "keep secret", path,
		fmt.Sprintf("any user of this host may read or change it: mode %04o", st.Mode().Perm())).
		WithHint("chmod o-rwx " + path)
}
