package systemtest

import (
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// child is a process that dies with us.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has been waited for
}

// startChild keeps a thread for the process: the kernel sends the death signal
// when the thread that started it ends, not the process it belongs to.
func startChild(cmd *exec.Cmd) (*child, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr.Setpgid = true
	c := &child{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // ProcessState has it
			close(c.done)
		}
	}()
	return c, <-started
}

func (c *child) running() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// end sends sig and waits; a process that does not go is killed after limit,
// and false returned.
func (c *child) end(sig os.Signal, limit time.Duration) bool {
	_ = c.cmd.Process.Signal(sig) // it may have ended
	select {
	case <-c.done:
		return true
	case <-time.After(limit):
		_ = c.cmd.Process.Kill()
		<-c.done
		return false
	}
}

func (c *child) kill9() { c.end(syscall.SIGKILL, time.Minute) }

func (c *child) exitCode() int { return c.cmd.ProcessState.ExitCode() }

// until polls cond; its last error is shown when the time is up.
func until(t *testing.T, limit time.Duration, what string, cond func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = cond(); err == nil {
			return
		}
	}
	t.Fatalf("%s: not within %v: %v", what, limit, err)
}
