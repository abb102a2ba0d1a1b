package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/internal/fail"
)

// confirm asks for the name of what is about to be changed for good.
func confirm(c *cobra.Command, what, name string, yes bool) error {
	if yes {
		return nil
	}
	fmt.Fprintln(c.ErrOrStderr(), what)
	if !isTerminal(os.Stdin) {
		return fail.New(fail.Refused, c.CommandPath(), name, "not confirmed, and there is no terminal to ask").WithHint("add --yes")
	}
	fmt.Fprintf(c.ErrOrStderr(), "Type %q to go on: ", name)
	line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	if strings.TrimSpace(line) != name {
		return fail.New(fail.Refused, c.CommandPath(), name, "not confirmed; nothing was changed")
	}
	return nil
}
