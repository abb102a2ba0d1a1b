package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/internal/quiesce"
)

// newGuard is the process that runs hooks round a bookmark, started by the agent.
func newGuard() *cobra.Command {
	return &cobra.Command{Use: "quiesce-guard", Short: "Run hooks round a bookmark", Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return quiesce.Guard(os.Stdin, os.Stdout) }}
}
