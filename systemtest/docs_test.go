package systemtest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// docBlock is an indented or fenced block of a page.
type docBlock struct {
	line   int // its first one, from 1
	lines  []string
	reason string // why it is not run; "": it is
}

// notRun marks the block below it as one that the test of the docs leaves out.
var notRun = regexp.MustCompile(`^<!-- not run: (.+) -->$`)

// docBlocks finds the blocks of a page.
func docBlocks(page string) (blocks []docBlock) {
	var open *docBlock
	fenced, reason, blank := false, "", true
	for i, line := range strings.Split(page, "\n") {
		fence := strings.HasPrefix(line, "```")
		text, indented := strings.CutPrefix(line, "    ")
		switch {
		case fence && fenced:
			open, fenced = nil, false
		case fenced:
			open.lines = append(open.lines, line)
		case fence, indented && blank && open == nil:
			blocks = append(blocks, docBlock{line: i + 1, reason: reason})
			open, fenced, reason = &blocks[len(blocks)-1], fence, ""
			if fence {
				open.line++
			} else {
				open.lines = []string{text}
			}
		case open != nil && (indented || line == ""):
			open.lines = append(open.lines, text)
		case line != "":
			open, reason = nil, ""
			if m := notRun.FindStringSubmatch(line); m != nil {
				reason = m[1]
			}
		}
		blank = line == ""
	}
	return blocks
}

// docScript is a page of which only the blocks to be run are left, on the lines where
// they were, up to the line that begins with end; "" is none.
func docScript(t *testing.T, name, end string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", name))
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	if end != "" {
		before, _, found := strings.Cut(page, "\n"+end)
		if !found {
			t.Fatalf("%s has no line that begins with %q", name, end)
		}
		page = before
	}
	script, run := make([]string, strings.Count(page, "\n")+1), 0
	for _, d := range docBlocks(page) {
		if d.reason != "" {
			t.Logf("%s:%d is not run: %s", name, d.line, d.reason)
			continue
		}
		copy(script[d.line-1:], d.lines)
		run++
	}
	t.Logf("%s: %d blocks to be run", name, run)
	if run == 0 {
		return ""
	}
	return strings.Join(script, "\n") + "\n"
}

// docGoesOn are the pages whose reader has just done what another page says, up to a line,
// and may go on with that page from another line.
var docGoesOn = map[string]struct{ page, end, then string }{
	"docs/block-device.md": {"README.md", "**A backing that is lost.**", "**A host that is lost.**"},
	"docs/twin.md":         {"README.md", "**A host that is lost.**", ""},
	"docs/control.md":      {"README.md", "Any NBD client can use it", ""},
}

// docRest is a page's script without what docScript has of it up to a line.
func docRest(t *testing.T, name, from string) string {
	t.Helper()
	lines := strings.SplitAfter(docScript(t, name, ""), "\n")
	for i := range strings.Count(docScript(t, name, from), "\n") {
		lines[i] = "\n"
	}
	return strings.Join(lines, "")
}

// docMachine gives a page a machine of its own as far as it can notice: /tmp, shared
// memory, loopback and processes are there for nobody else, and end with it.
const docMachine = `mount --bind . /tmp && mount -t tmpfs -o mode=1777 tmpfs /dev/shm && ip link set lo up &&
cd /tmp/here && bash ../script`

// docShell is how each page begins: as in a terminal where jobs have numbers, but the
// first command that fails ends it, and is named with its page and line.
const docShell = `set -emE
trap 'echo "FAILED ${BASH_SOURCE[0]##*/}:$LINENO: $BASH_COMMAND" >&2' ERR
`

// TestDocs does what README and each page of docs say, as their reader would: one shell
// for a page, its blocks in order, nothing typed at a prompt. Nothing may fail, and no
// verb may print an error.
func TestDocs(t *testing.T) {
	for name, pkg := range map[string]string{"unshare": "util-linux", "ip": "iproute2", "losetup": "mount",
		"curl": "curl", "nbdinfo": "libnbd-bin", "nbdcopy": "libnbd-bin", "nbdfuse": "nbdfuse", "nbdkit": "nbdkit",
		"mkfs.ext4": "e2fsprogs"} {
		tool(t, name, pkg)
	}
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatal(pages, err)
	}
	for _, page := range append([]string{"../README.md"}, pages...) {
		name := strings.TrimPrefix(page, "../")
		t.Run(filepath.Base(name), func(t *testing.T) {
			script := docScript(t, name, "")
			if script == "" {
				return
			}
			dir := docDirectory(t)
			all := docShell
			if on, ok := docGoesOn[name]; ok {
				all += ". ../before/" + filepath.Base(on.page) + "\n"
				docWrite(t, filepath.Join(dir, "before", filepath.Base(on.page)), docScript(t, on.page, on.end))
			}
			docWrite(t, filepath.Join(dir, "page", filepath.Base(name)), script)
			all += ". ../page/" + filepath.Base(name) + "\n"
			if on := docGoesOn[name]; on.then != "" {
				all += ". ../after/" + filepath.Base(on.page) + "\n"
				docWrite(t, filepath.Join(dir, "after", filepath.Base(on.page)), docRest(t, on.page, on.then))
			}
			docWrite(t, filepath.Join(dir, "script"), all)
			docRun(t, dir)
		})
	}
}

// docDirectory is to be a page's /tmp, with the program that is tested in `here`.
func docDirectory(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"here", "home", "before", "page", "after"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	in, err := os.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(filepath.Join(dir, "here", "pollux"), os.O_CREATE|os.O_WRONLY, 0o700)
	if err == nil {
		_, err = io.Copy(out, in)
	}
	if err == nil {
		err = out.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func docWrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// docNote is what verbs tell though all is as it should be.
var docNote = regexp.MustCompile(`^pollux: (ended; |waiting: |trying again: |reading the log|[a-z ]+: [0-9]+%, |` +
	`.*: overwriting in spite of this: |.*: going on from )`)

// docRun runs a page's script, and shows what it printed when something was wrong.
func docRun(t *testing.T, dir string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
		"bash", "-c", docMachine)
	cmd.Dir = dir
	cmd.Env = []string{"HOME=/tmp/home", "PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "USER=root", "LANG=C.UTF-8"}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 10 * time.Second
	start := time.Now()
	err := cmd.Run()
	for line := range strings.Lines(out.String()) {
		if strings.HasPrefix(line, "pollux: ") && !docNote.MatchString(line) && err == nil {
			err = fmt.Errorf("a verb complains: %s", strings.TrimSpace(line))
		}
	}
	if err != nil {
		t.Errorf("%v after %v:\n%s", err, time.Since(start).Round(time.Second), tail(out.String(), 60))
	}
}
