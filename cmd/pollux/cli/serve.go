package cli

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
)

// RunDaemon waits until a daemon that serves ends, or is told to, and tells systemd.
func RunDaemon(ctx context.Context, log *slog.Logger, d interface {
	Wait(ctx context.Context) error
	Close() error
}) error {
	notify("READY=1")
	err := d.Wait(ctx)
	notify("STOPPING=1")
	log.Info("stopping")
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

// NewLogger writes to standard error as the configuration says.
func NewLogger(c config.Log) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Level)) // checked by config
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(Stderr, o))
	}
	return slog.New(slog.NewTextHandler(Stderr, o))
}

// notify tells systemd about the service's state: sd_notify(3).
func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if path[0] == '@' {
		path = "\x00" + path[1:]
	}
	conn, err := net.Dial("unixgram", path)
	if err != nil {
		fmt.Fprintln(Stderr, "pollux:", fail.Wrap(fail.Internal, "notify", "systemd", err))
		return
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(state))
}

// GuardMemory keeps reclaim from waiting for itself: this process is what dirty
// pages of its volumes are written through. Without the privilege it goes on and
// says so.
func GuardMemory(log *slog.Logger) {
	if err := unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0); err != nil {
		log.Warn("not marked as an I/O flusher; under memory pressure a volume mounted on this host may stall",
			"err", err)
	}
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		log.Warn("memory is not locked; raise LimitMEMLOCK", "err", err)
	}
}

// NewQuiet logs only what is wrong, for verbs that say themselves what they do.
func NewQuiet() *slog.Logger {
	return slog.New(slog.NewTextHandler(Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
}
