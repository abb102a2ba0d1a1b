package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Confirm asks for the name of what is about to be changed for good.
func Confirm(c *cobra.Command, what, name string, yes bool) error {
	if yes {
		return nil
	}
	fmt.Fprintln(c.ErrOrStderr(), what)
	if !isTerminal(os.Stdin) {
		return fail.New(fail.Refused, VerbOf(c), name, "not confirmed, and there is no terminal to ask").
			WithHint("add --yes")
	}
	typed, err := ask(c.Context(), os.Stdin, c.ErrOrStderr(), fmt.Sprintf("Type %q to go on: ", name))
	if err != nil {
		return fail.Wrap(fail.Refused, VerbOf(c), name, err)
	}
	if typed != name {
		return fail.New(fail.Refused, VerbOf(c), name, "not confirmed; nothing was changed").
			WithHint("type the name, or add --yes")
	}
	return nil
}

// ask reads one line from a terminal. What was typed before the question is no answer to
// it: the next line of a block that was pasted, say.
func ask(ctx context.Context, in *os.File, w io.Writer, question string) (string, error) {
	if n := drain(int(in.Fd())); n > 0 {
		fmt.Fprintln(w, "pollux: what was typed ahead is not taken for an answer, and is dropped")
	}
	fmt.Fprint(w, question)
	typed := make(chan string, 1)
	go func() { // it may wait for ever; the process ends then
		line, _ := bufio.NewReader(in).ReadString('\n')
		typed <- line
	}()
	select {
	case line := <-typed:
		return strings.TrimSpace(line), nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// quiet is for how long nothing comes any more after what was pasted.
const quiet = 100 * time.Millisecond

// drain drops what a terminal holds of input, until it is quiet, and returns how many
// bytes of whole lines that were.
func drain(fd int) (dropped int) {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(quiet/time.Millisecond))
		if held, ierr := unix.IoctlGetInt(fd, unix.TIOCINQ); ierr == nil {
			dropped += held
		}
		if unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIFLUSH) != nil || n <= 0 && err != unix.EINTR {
			return dropped
		}
	}
}
