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

	"github.com/pollux-dr/pollux/internal/fail"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	var code exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(stderr, "pollux: interrupted")
		printHint(stderr, err)
		return 130
	}
	printError(stderr, err)
	return fail.ExitCode(err)
}

// exitCode ends the process with a status and no message: the verb has said all.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit status %d", int(c)) }

const exitCodes = `Exit codes:
  0 ok   1 internal error   2 invalid input   3 not found   4 exists already
  5 refused in this state   6 try again later   7 full   8 permission denied
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
	root.SetFlagErrorFunc(flagError)
	for _, add := range []func() *cobra.Command{newAgent, newJournal, newGroup, newVolume, newBookmark, newStatus, newPoints, newRestore, newMount, newClone, newVerify, newGC, newCost, newGuard, newDemo, newBench, newDump, newDoctor, newTLS, newAudit, newRecover} {
		root.AddCommand(add())
	}
	return strict(root)
}

// strict makes wrong arguments and unknown subcommands errors of kind Invalid.
func strict(c *cobra.Command) *cobra.Command {
	for _, sub := range c.Commands() {
		strict(sub)
	}
	if args := c.Args; args != nil {
		c.Args = func(c *cobra.Command, a []string) error {
			if err := args(c, a); err != nil {
				return fail.New(fail.Invalid, verbOf(c), "", err.Error()).WithHint("usage: " + c.UseLine())
			}
			return nil
		}
	}
	if c.HasSubCommands() && c.RunE == nil {
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(c *cobra.Command, a []string) error {
			if len(a) == 0 {
				return c.Help()
			}
			return fail.New(fail.Invalid, verbOf(c), "", fmt.Sprintf("unknown command %q", a[0])).
				WithHint(didYouMean(likeCommand(c, a[0]), "see "+c.CommandPath()+" --help"))
		}
	}
	return c
}
