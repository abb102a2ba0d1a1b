package cli

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/text"
)

// Terminal is where verbs print. Only printable text gets through to the file, whoever
// may have written what is printed; the program's own control sequences go by sendControl.
type Terminal struct {
	io.Writer
	file *os.File
}

// The terminals of this process: what is printed there is printable.
var (
	Stdout = NewTerminal(os.Stdout)
	Stderr = NewTerminal(os.Stderr)
)

// NewTerminal lets through to f only what can be printed.
func NewTerminal(f *os.File) *Terminal { return &Terminal{text.Printable(f), f} }

// SendControl writes a sequence of our own for a terminal; nothing where w is none.
func SendControl(w io.Writer, sequence string) {
	if t, ok := w.(*Terminal); ok && isTerminal(t.file) {
		_, _ = io.WriteString(t.file, sequence)
	}
}

// PrintError prints an error and its hint. What follows its first line is indented, so
// that no text from elsewhere can begin a line.
func PrintError(w io.Writer, err error) {
	fmt.Fprintln(w, "pollux:", indented(err.Error()))
	PrintHint(w, err)
}

// PrintHint prints an error's hint, if it has one.
func PrintHint(w io.Writer, err error) {
	if hint := fail.HintOf(err); hint != "" {
		fmt.Fprintln(w, "  hint:", indented(hint))
	}
}

func indented(s string) string { return strings.ReplaceAll(s, "\n", "\n  ") }
