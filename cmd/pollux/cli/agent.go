package cli

import (
	"context"

	"github.com/pollux-dr/pollux/control/host"
	"github.com/pollux-dr/pollux/internal/config"
)

// RunAgent serves as the agent of a configuration, which was read from path, until ctx ends.
func RunAgent(ctx context.Context, conf *config.Agent, path, version string) error {
	log := NewLogger(conf.Log)
	d, err := host.Start(ctx, conf, host.Options{Path: path, Version: version, Logger: log,
		Guard: func() { GuardMemory(log) }})
	if err != nil {
		return config.Listening(conf, path, err)
	}
	log.Info("serving", "version", version, "nbd", conf.NBD.Unix, "control", conf.Socket)
	return RunDaemon(ctx, log, d)
}
