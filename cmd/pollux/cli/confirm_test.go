package cli

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// openTerminal returns both ends of a new terminal.
func openTerminal(t *testing.T) (user, process *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd := int(user.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	process, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = user.Close(); _ = process.Close() })
	return user, process
}

// answering types its line once it is asked.
type answering struct {
	strings.Builder
	question, line string
	user           *os.File
}

func (a *answering) Write(b []byte) (int, error) {
	if strings.Contains(string(b), a.question) {
		if _, err := a.user.WriteString(a.line); err != nil {
			return 0, err
		}
	}
	return a.Builder.Write(b)
}

// TestAskAfterPaste: what was pasted behind a command is not the answer to its question,
// whether it happens to be right or wrong.
func TestAskAfterPaste(t *testing.T) {
	for _, pasted := range []string{"", "./pollux volume ls\n", "v\nrm -rf /\nand half a line"} {
		user, process := openTerminal(t)
		if _, err := user.WriteString(pasted); err != nil {
			t.Fatal(err)
		}
		w := &answering{question: "Type", line: "what was meant\n", user: user}
		typed, err := ask(t.Context(), process, w, "Type: ")
		if err != nil || typed != "what was meant" || strings.Contains(w.String(), "typed ahead") != (pasted != "") {
			t.Errorf("after %q: %q, %v, said %q", pasted, typed, err, w.String())
		}
	}
}
