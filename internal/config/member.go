package config

import (
	"errors"
	"fmt"
	"net"

	"github.com/pollux-dr/pollux/internal/pki"
)

// Member says how a member of a journal is reached, and reaches others.
type Member struct {
	Listen    string   `yaml:"listen"`    // host:port for agents and other members
	Advertise string   `yaml:"advertise"` // what they dial; default listen
	Peers     []string `yaml:"peers"`     // other members; a new one asks there to be let in
}

// Identity names the PEM files by which one end of a connection shows its role.
type Identity struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	CA   string `yaml:"ca"`
}

func (i Identity) check() error {
	if n := len(i.Cert) * len(i.Key) * len(i.CA); n == 0 && i != (Identity{}) {
		return errors.New("cert, key and ca belong together")
	}
	return nil
}

// Control says where operators on other hosts reach the daemon. They show
// certificates.
type Control struct {
	Listen string `yaml:"listen"` // host:port; default none
}

func (c Control) check(id Identity) error {
	if c.Listen == "" {
		return nil
	}
	if !id.Set() {
		return errors.New("operators on other hosts are known by certificates: set tls")
	}
	return checkListen(c.Listen, true, "tls")
}

// Set reports whether there is one.
func (i Identity) Set() bool { return i != Identity{} }

// Files is the identity as package pki takes it.
func (i Identity) Files() pki.Files { return pki.Files(i) }

// check returns the first setting of a member that cannot work.
func (m *Member) check(id Identity) (string, error) {
	if m.Listen == "" {
		if m.Advertise != "" || len(m.Peers) > 0 {
			return "advertise", errors.New("advertise and peers need listen")
		}
		return "", nil
	}
	if err := checkListen(m.Listen, id.Set(), "tls"); err != nil {
		return "listen", err
	}
	if host, _, _ := net.SplitHostPort(m.Advertise); m.Advertise == m.Listen &&
		(host == "" || net.ParseIP(host).IsUnspecified()) {
		return "listen", fmt.Errorf("%q is every address of this host: set advertise to the one that others dial",
			m.Listen)
	}
	if err := checkAddresses([]string{m.Advertise}, id); err != nil {
		return "advertise", err
	}
	return "peers", checkAddresses(m.Peers, id)
}

// checkAddresses refuses what cannot be dialled, or only in clear.
func checkAddresses(all []string, id Identity) error {
	for _, a := range all {
		host, port, err := net.SplitHostPort(a)
		if err != nil || host == "" || port == "" {
			return fmt.Errorf("%q is not host:port", a)
		}
		if ip := net.ParseIP(host); !id.Set() && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return fmt.Errorf("%q is not a loopback address, and nothing is sent in clear elsewhere: set tls", a)
		}
	}
	return nil
}

func (m *Member) setDefaults() {
	if m.Advertise == "" {
		m.Advertise = m.Listen
	}
}
