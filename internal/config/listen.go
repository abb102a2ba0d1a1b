package config

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/fail"
)

// named is a setting with its value.
type named struct{ setting, value string }

func (c *Agent) listeners() []named {
	return []named{{"nbd.tcp", c.NBD.TCP}, {"nbd.unix", c.NBD.Unix}, {"socket", c.Socket},
		{"journal.listen", c.Journal.Listen},
		{"control.listen", c.Control.Listen}, {"metrics.listen", c.Metrics.Listen}}
}

func (c *JournalHost) listeners() []named {
	return []named{{"listen", c.Listen}, {"socket", c.Socket}, {"control.listen", c.Control.Listen},
		{"metrics.listen", c.Metrics.Listen}}
}

// Listening names the setting of an address that a daemon could not listen on. path is
// the configuration's file; other errors pass.
func Listening(c interface{ listeners() []named }, path string, err error) error {
	var f *fail.Error
	for at := err; errors.As(at, &f); at = f.Err {
		for _, l := range c.listeners() {
			if f.Op != "listen on" || f.Object != l.value {
				continue
			}
			cause := f.Err
			var op *net.OpError
			if errors.As(cause, &op) {
				cause = op.Err
			}
			e := &fail.Error{Kind: f.Kind, Op: f.Op, Object: l.setting + " " + l.value, Err: cause}
			return e.WithHint(listenHint(l.setting, path, cause))
		}
	}
	return err
}

func listenHint(setting, path string, err error) string {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Sprintf("another process has that port (ss -ltnp shows which): stop it, or set %s in %s to "+
			"another one", setting, path)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Sprintf("no interface of this host has that address (ip addr shows them): correct %s in %s",
			setting, path)
	}
	return fmt.Sprintf("correct %s in %s", setting, path)
}

// checkFiles returns the first file that a setting names and that cannot be read.
func checkFiles(files []named) (setting string, err error) {
	for _, f := range files {
		if f.value == "" {
			continue
		}
		r, err := os.Open(f.value)
		if err != nil {
			return f.setting, err
		}
		_ = r.Close()
	}
	return "", nil
}

func (c *Agent) files() []named {
	out := append(c.NBD.TLS.files("nbd.tls"), c.Metrics.TLS.files("metrics.tls")...)
	out = append(out, c.Identity.files("tls")...)
	return append(out, targetFiles("journal.targets", c.Journal.Targets)...)
}

func (c *JournalHost) files() []named {
	out := append(c.Metrics.TLS.files("metrics.tls"), c.Identity.files("tls")...)
	return append(out, targetFiles("targets", c.Targets)...)
}

func (t TLS) files(prefix string) []named {
	return []named{{prefix + ".cert", t.Cert}, {prefix + ".key", t.Key}, {prefix + ".client_ca", t.ClientCA}}
}

func (i Identity) files(prefix string) []named {
	return []named{{prefix + ".cert", i.Cert}, {prefix + ".key", i.Key}, {prefix + ".ca", i.CA}}
}

func targetFiles(prefix string, targets []Target) (out []named) {
	for i, t := range targets {
		at := fmt.Sprintf("%s[%d]", prefix, i)
		out = append(out, named{at + ".credentials_file", t.CredentialsFile}, named{at + ".ca_file", t.CAFile})
	}
	return out
}
