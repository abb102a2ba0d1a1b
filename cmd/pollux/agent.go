package main

import (
	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/internal/config"
)

func newAgent() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use: "agent -c agent.yaml", Short: "Serve and protect the volumes of this host",
		Long: `Runs in the foreground until SIGTERM or SIGINT: it then makes everything
acknowledged durable and ends. Under systemd it notifies readiness.`,
		Args: cobra.NoArgs,
	}
	c.Flags().StringVarP(&path, "config", "c", "/etc/pollux/agent.yaml", "configuration file")
	c.RunE = func(c *cobra.Command, _ []string) error {
		conf, err := config.LoadAgent(path)
		if err != nil {
			return err
		}
		return cli.RunAgent(c.Context(), conf, path, version)
	}
	return c
}
