package nbdclient

import (
	"net"
	"net/url"
	"strings"

	"github.com/pollux-dr/pollux/internal/fail"
)

const defaultPort = "10809"

// Target is where an export is.
type Target struct {
	Network string // "unix" or "tcp"
	Addr    string // path or host:port
	Export  string
	TLS     bool
}

// ParseURI reads nbd://host:port/export, nbds:// (with TLS) and
// nbd+unix:///export?socket=PATH, nbds+unix:// as in
// https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md.
func ParseURI(uri string) (Target, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return Target{}, fail.Wrap(fail.Invalid, "parse NBD URI", uri, err)
	}
	t := Target{Export: strings.TrimPrefix(u.Path, "/")}
	switch u.Scheme {
	case "nbds", "nbds+unix":
		t.TLS = true
	case "nbd", "nbd+unix":
	default:
		return Target{}, fail.New(fail.Invalid, "parse NBD URI", uri, "scheme is not nbd, nbds, nbd+unix or nbds+unix")
	}
	if strings.HasSuffix(u.Scheme, "+unix") {
		t.Network, t.Addr = "unix", u.Query().Get("socket")
		if t.Addr == "" {
			return Target{}, fail.New(fail.Invalid, "parse NBD URI", uri, "no ?socket=PATH")
		}
		return t, nil
	}
	port := u.Port()
	if port == "" {
		port = defaultPort
	}
	host := u.Hostname()
	if host == "" {
		host = "localhost"
	}
	t.Network, t.Addr = "tcp", net.JoinHostPort(host, port)
	return t, nil
}
