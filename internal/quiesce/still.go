package quiesce

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Still is an application that stands still until GoOn.
type Still struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
	hooks Hooks
}

// Begin starts a guard and returns when the first hook has succeeded. program and args
// run Guard. Errors are fail.Refused, with what the hook said; the application goes on
// then.
func Begin(program string, args []string, h Hooks, what string) (*Still, error) {
	s := &Still{cmd: exec.Command(program, args...), hooks: h}
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // it outlives us if it must
	s.cmd.Stderr = os.Stderr
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
	s.in, s.out = in, bufio.NewReader(out)
	b, err := json.Marshal(h)
	if err == nil {
		_, err = s.in.Write(append(b, '\n'))
	}
	if line := s.line(); err != nil || line != saysStill {
		return nil, s.end(line, what)
	}
	return s, nil
}

func (s *Still) line() string {
	line, _ := s.out.ReadString('\n')
	return strings.TrimSuffix(line, "\n")
}

// end waits for the guard, and makes an error of what it said. A guard that died has
// not run the second hook: then it is run here.
func (s *Still) end(line, what string) error {
	_ = s.in.Close()
	_ = s.cmd.Wait()
	why, failed := strings.CutPrefix(line, saysFailed)
	switch {
	case line == saysGoesOn:
		return nil
	case line == saysLate:
		return fail.New(fail.Refused, "quiesce", what, "it stood still for the limit, and had to go on before the mark was made").
			WithHint("a longer limit in the agent's quiesce settings, or a quieter moment")
	case failed:
		return fail.New(fail.Refused, "quiesce", what, why).WithHint("see the hooks in the agent's quiesce settings")
	}
	if err := goOn(s.hooks.Post); err != nil {
		return fail.New(fail.Internal, "quiesce", what, "the guard died. THE APPLICATION MAY STILL STAND STILL: "+err.Error())
	}
	return fail.New(fail.Internal, "quiesce", what, "the guard died; the application goes on")
}

// GoOn has the second hook run. An error says that the application did not stand still
// all the time.
func (s *Still) GoOn(what string) error {
	_, _ = s.in.Write([]byte("done\n"))
	return s.end(s.line(), what)
}
