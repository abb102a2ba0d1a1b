package config

import (
	"fmt"
	"os"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Secrets are the files of a configuration that nobody else should be able to read: keys
// and credentials.
func (c *Agent) Secrets() []string {
	return secrets(c.Journal.Targets, c.Identity.Key, c.Journal.Identity.Key, c.NBD.TLS.Key)
}

// Secrets is as for an agent.
func (c *JournalHost) Secrets() []string { return secrets(c.Targets, c.Identity.Key) }

func secrets(targets []Target, keys ...string) []string {
	for _, t := range targets {
		keys = append(keys, t.CredentialsFile)
	}
	return distinct(keys)
}

// Exposed is an error that names a secret file which any user of this host can read or
// change; nil where there is none, or no such file.
func Exposed(path string) error {
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm()&0o006 == 0 {
		return nil // whoever needs it says so
	}
	return fail.New(fail.Denied, "keep secret", path, fmt.Sprintf("any user of this host may read or change it: mode %04o", st.Mode().Perm())).
		WithHint("chmod o-rwx " + path)
}
