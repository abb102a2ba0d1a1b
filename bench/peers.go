package bench

import (
	"context"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbd"
	"github.com/pollux-dr/pollux/internal/nbdclient"
)

// peer is an NBD server without protection.
type peer struct {
	*proc
	uri string
}

// startUnprotected serves a file by our own NBD server, in a process of its own.
func (s *session) startUnprotected(ctx context.Context) (*peer, error) {
	return s.startPeer(ctx, "unprotected", func(file, socket string) *exec.Cmd {
		return exec.Command(s.o.Program, "bench", "serve", "--file", file, "--socket", socket)
	})
}

// startNBDKit serves a file by nbdkit's file plugin. Without nbdkit on this host
// it is nil.
func (s *session) startNBDKit(ctx context.Context) (*peer, error) {
	path, err := exec.LookPath("nbdkit")
	if err != nil {
		s.note("nbdkit is not installed (Debian's package: nbdkit), so there is no comparison with it")
		return nil, nil
	}
	return s.startPeer(ctx, "nbdkit", func(file, socket string) *exec.Cmd {
		return exec.Command(path, "--foreground", "--exit-with-parent", "--unix", socket, "file", file)
	})
}

func (s *session) startPeer(ctx context.Context, name string, command func(file, socket string) *exec.Cmd,
) (*peer, error) {
	file, socket := filepath.Join(s.dir, name+".img"), filepath.Join(s.dir, name+".sock")
	if err := s.prepare(file); err != nil {
		return nil, err
	}
	c, err := startProc(s.dir, name, command(file, socket))
	if err != nil {
		return nil, err
	}
	p := &peer{proc: c, uri: unixURI("", socket)}
	err = try(ctx, c, func() error {
		conn, err := nbdclient.Dial(ctx, p.uri, nil)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	if err != nil {
		p.kill()
		return nil, err
	}
	return p, nil
}

func (p *peer) kill() {
	if p != nil {
		p.stop(0)
	}
}

// Serve offers one file over NBD on a unix socket until ctx ends: the agent's
// front end over the bare file, with no log behind it.
func Serve(ctx context.Context, file, socket string) error {
	dev, err := block.OpenFile(file, false)
	if err != nil {
		return err
	}
	defer dev.Close()
	l, err := net.Listen("unix", socket)
	if err != nil {
		return fail.Wrap(fail.Denied, "listen on", socket, err)
	}
	server := nbd.New(nbd.Options{Exports: oneFile{dev}, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	err = server.Serve(ctx, l)
	if cerr := server.Close(); err == nil {
		err = cerr
	}
	return err
}

type oneFile struct{ dev *block.File }

func (o oneFile) Open(_ context.Context, name string) (block.Device, error) {
	if name != "" {
		return nil, fail.New(fail.NotFound, "open export", name, "no such export")
	}
	return o.dev, nil
}

func (o oneFile) List(context.Context) []nbd.Export {
	return []nbd.Export{{SizeBytes: o.dev.Info().SizeBytes}}
}
