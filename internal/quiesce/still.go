package quiesce

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Still is an application that stands still until GoOn.
type Still struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	hooks Hooks
	said  chan string // lines of the guard, until it is gone
	died  bool        // without a last word; set before said is closed
	goOn  error       // of the second hook, run here then
}

// handedOn are the variables of the agent that its hooks get, and those that begin with
// LC_. The others may be secrets: credentials of the object store, for one.
var handedOn = []string{"PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TZ", "LANG", "LANGUAGE"}

func hookEnv(all []string) []string {
	out := []string{} // nil would be all of them
	for _, v := range all {
		if name, _, _ := strings.Cut(v, "="); slices.Contains(handedOn, name) || strings.HasPrefix(name, "LC_") {
			out = append(out, v)
		}
	}
	return out
}

// guardPatience is how much longer than its hooks' limits a guard may take.
const guardPatience = 10 * time.Second

// Begin starts a guard and returns when the first hook has succeeded. program and args
// run Guard. Errors are fail.Refused, with what the hook said; the application goes on
// then. When ctx ends before, the hook is ended too, and the second one run.
func Begin(ctx context.Context, program string, args []string, h Hooks, what string) (*Still, error) {
	s := &Still{cmd: exec.Command(program, args...), hooks: h, said: make(chan string, 4)}
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it outlives us if it must
	s.cmd.Stderr = os.Stderr
	s.cmd.Env = hookEnv(os.Environ())
	in, err := s.cmd.StdinPipe()
	if err != nil {
		return nil, fail.Wrap(fail.Internal, "quiesce", what, err)
	}
	out, err := s.cmd.StdoutPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		return nil, fail.Wrap(fail.Internal, "start guard to quiesce", what, err)
	}
	s.in = in
	go s.listen(out)
	b, err := json.Marshal(h)
	if err == nil {
		_, err = s.in.Write(append(b, '\n'))
	}
	line := ""
	killed := s.killAfter(h.Limit + guardPatience)
	select {
	case line = <-s.said:
	case <-ctx.Done():
	}
	killed.Stop()
	if left := ctx.Err(); left != nil { // whoever wanted it is gone
		return nil, fail.Wrap(fail.Retry, "quiesce", what, errors.Join(left, s.end(line, what)))
	}
	if err != nil || line != saysStill {
		return nil, s.end(line, what)
	}
	return s, nil
}

// killAfter ends a guard that itself stands still; see listen for what happens then.
func (s *Still) killAfter(d time.Duration) *time.Timer {
	return time.AfterFunc(d, func() { _ = s.cmd.Process.Kill() })
}

// listen hears what the guard says. One that dies without a last word has not run the
// second hook: then that is run here, at once.
func (s *Still) listen(out io.Reader) {
	defer close(s.said)
	lines, last := bufio.NewScanner(out), ""
	for lines.Scan() {
		last = lines.Text()
		s.said <- last
	}
	if last == "" || last == saysStill {
		s.died = true
		s.goOn = goOn(s.hooks.Post)
	}
}

// end waits for the guard, and makes an error of what it said.
func (s *Still) end(line, what string) error {
	_ = s.in.Close()
	defer s.killAfter(postTries * (postLimit + guardPatience)).Stop()
	for more := range s.said { // its last word
		line = more
	}
	go func() { _ = s.cmd.Wait() }() // it may stay for a hook that cannot be killed
	why, failed := strings.CutPrefix(line, saysFailed)
	switch {
	case s.died && s.goOn != nil:
		return fail.New(fail.Internal, "quiesce", what, "the guard died. THE APPLICATION MAY STILL STAND STILL: "+
			s.goOn.Error())
	case s.died:
		return fail.New(fail.Internal, "quiesce", what, "the guard died; the application goes on")
	case line == saysGoesOn:
		return nil
	case line == saysLate:
		return fail.New(fail.Refused, "quiesce", what,
			"it stood still for the limit, and had to go on before the mark was made").
			WithHint("a longer limit in the agent's quiesce settings, or a quieter moment")
	case failed:
		return fail.New(fail.Refused, "quiesce", what, why).WithHint("see the hooks in the agent's quiesce settings")
	}
	return fail.New(fail.Internal, "quiesce", what, fmt.Sprintf("the guard said %q", line))
}

// GoOn has the second hook run. An error says that the application did not stand still
// all the time.
func (s *Still) GoOn(what string) error {
	_, _ = s.in.Write([]byte("done\n"))
	return s.end("", what)
}
