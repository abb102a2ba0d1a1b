package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Strict makes wrong arguments and unknown subcommands errors of kind Invalid.
func Strict(c *cobra.Command) *cobra.Command {
	for _, sub := range c.Commands() {
		Strict(sub)
	}
	if args := c.Args; args != nil {
		c.Args = func(c *cobra.Command, a []string) error {
			if err := args(c, a); err != nil {
				return fail.New(fail.Invalid, VerbOf(c), "", err.Error()).WithHint("usage: " + c.UseLine())
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
			return fail.New(fail.Invalid, VerbOf(c), "", fmt.Sprintf("unknown command %q", a[0])).
				WithHint(didYouMean(likeCommand(c, a[0]), "see "+c.CommandPath()+" --help"))
		}
	}
	return c
}
