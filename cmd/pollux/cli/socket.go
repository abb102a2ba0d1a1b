package cli

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/pollux-dr/pollux/control/adminhttp"
	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbd"
)

// ListenFree listens on the socket that a flag names, for its owner only; one that somebody listens
// on already is refused.
func ListenFree(flag, path string) (net.Listener, error) {
	if err := CheckSocket(flag, path); err != nil {
		return nil, err
	}
	return adminhttp.ListenUnix(path)
}

// CheckSocket refuses a path, which a flag names, at which no socket can be made, or where there is
// one that somebody listens on.
func CheckSocket(flag, path string) error {
	no := func(kind fail.Kind, why, hint string) error {
		return fail.New(kind, "listen on", flag+" "+path, why).WithHint(hint)
	}
	if _, _, err := net.SplitHostPort(path); !strings.Contains(path, "/") && (err == nil || net.ParseIP(path) != nil) {
		return no(fail.Invalid, "it looks like an address, and mount serves at a unix socket",
			"name a path, as in "+flag+" ./"+path)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		_ = conn.Close()
		return no(fail.Exists, "somebody does already", "name another socket with "+flag)
	}
	if st, err := os.Lstat(path); err == nil && st.Mode()&os.ModeSocket == 0 {
		return no(fail.Exists, "it exists, and is no socket", "name another path with "+flag)
	}
	const most = 107 // of a socket's path, in the kernel
	if err := CheckDirectory("listen on", flag, filepath.Dir(path)); err != nil {
		return err
	}
	if len(path) > most {
		return no(fail.Invalid, fmt.Sprintf("the path has %d bytes, a socket's may have %d", len(path), most),
			"name a shorter one with "+flag)
	}
	return nil
}

// OneExport serves a device under its name, and under none.
type OneExport struct {
	Name   string
	Device block.Device
}

// Open is nbd.Exports'.
func (e OneExport) Open(_ context.Context, name string) (block.Device, error) {
	if name != "" && name != e.Name {
		return nil, fail.New(fail.NotFound, "open export", name, "this mount serves "+e.Name)
	}
	return e.Device, nil
}

// List is nbd.Exports'.
func (e OneExport) List(context.Context) []nbd.Export {
	return []nbd.Export{nbd.ExportOf(e.Name, e.Device)}
}
