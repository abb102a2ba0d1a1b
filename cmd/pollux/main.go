// Command pollux keeps a continuously consistent twin of block volumes in
// another region: agent, journal and the operator's verbs in one binary.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/benchmark"
	"github.com/pollux-dr/pollux/cmd/pollux/branch"
	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/cmd/pollux/demo"
	"github.com/pollux-dr/pollux/cmd/pollux/dump"
	"github.com/pollux-dr/pollux/cmd/pollux/failback"
	"github.com/pollux-dr/pollux/cmd/pollux/failover"
	"github.com/pollux-dr/pollux/cmd/pollux/standby"
	"github.com/pollux-dr/pollux/internal/fail"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(cli.Stdout)
	root.SetErr(cli.Stderr)
	err := root.ExecuteContext(ctx)
	var code exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(cli.Stderr, "pollux: interrupted")
		cli.PrintHint(cli.Stderr, err)
		return 130
	}
	cli.PrintError(cli.Stderr, err)
	return fail.ExitCode(err)
}

func newBench() *cobra.Command   { return benchmark.New(version) }
func newDemo() *cobra.Command    { return demo.New() }
func newStandby() *cobra.Command { return standby.New(version) }

// exitCode ends the process with a status and no message: the verb has said all.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit status %d", int(c)) }

const exitCodes = `Exit codes:
  0 ok   1 internal error   2 invalid input   3 not found   4 exists already
  5 refused in this state   6 retry later   7 full   8 permission denied
  9 damaged data   10 fenced   11 unsupported version   130 interrupted`

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "pollux",
		Short: "Block-level replication to an object store, continuously consistent",
		Long: `Pollux captures every write of block volumes into a change log and streams it to an
object store at a remote site. From that store alone any volume can be restored
at any recovery point.

` + exitCodes,
		SilenceErrors: true, SilenceUsage: true, Version: version,
	}
	root.SetVersionTemplate(versionText())
	root.SetFlagErrorFunc(cli.FlagError)
	for _, add := range []func() *cobra.Command{newAgent, newJournal, newGroup, newVolume, newBookmark, newStatus,
		newPoints, newRestore, newMount, newClone, newVerify, newGC, newCost, newGuard, newDemo, newBench, dump.New,
		newDoctor, newTLS, newAudit, newRecover, newStandby} {
		root.AddCommand(add())
	}
	root.AddCommand(failover.New(version), failback.New(), branch.New())
	return cli.Strict(root)
}
