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
		return fail.New(fail.Refused, verbOf(c), name, "not confirmed, and there is no terminal to ask").WithHint("add --yes")
	}
	fmt.Fprintf(c.ErrOrStderr(), "Type %q to go on: ", name)
	typed := make(chan string, 1)
	go func() { // it may wait for ever; the process ends then
		line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		typed <- line
	}()
	var line string
	select {
	case line = <-typed:
	case <-c.Context().Done():
		return fail.Wrap(fail.Refused, verbOf(c), name, c.Context().Err())
	}
	if strings.TrimSpace(line) != name {
		return fail.New(fail.Refused, verbOf(c), name, "not confirmed; nothing was changed")
	}
	return nil
}
