package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// child is a process that dies with us, with its output in a file.
type child struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has been waited for
	err  error         // Wait's
	once sync.Once
}

// startChild keeps a thread for the process: the kernel sends the death signal
// when the thread that started it ends.
func startChild(dir, name string, cmd *exec.Cmd) (*child, error) {
	c := &child{name: name, log: filepath.Join(dir, name+".log"), cmd: cmd, done: make(chan struct{})}
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fail.Wrap(fail.Denied, "create", c.log, err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	// Its own process group: a terminal's interrupt reaches us, and we stop it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			c.err = cmd.Wait()
			close(c.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fail.Wrap(fail.NotFound, "start", cmd.Path, err)
	}
	return c, nil
}

// stop asks the process to end, and kills it when it has not after a while. A
// stopped one may be stopped again.
func (c *child) stop(patience time.Duration) {
	c.once.Do(func() {
		_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
		select {
		case <-c.done:
		case <-time.After(patience):
			_ = c.cmd.Process.Kill()
		}
	})
	<-c.done
}

// failure is the error of a process that should be running and is not.
func (c *child) failure() error {
	tail, _ := os.ReadFile(c.log)
	if len(tail) > 2000 {
		tail = tail[len(tail)-2000:]
	}
	return fail.New(fail.Internal, "run", c.name, fmt.Sprintf("it ended: %v\n%s", c.err, bytes.TrimSpace(tail)))
}

// cpuSeconds is what the process has used so far, in steps of 10 ms.
func (c *child) cpuSeconds() float64 {
	const ticksPerSecond = 100 // USER_HZ, fixed in the kernel's interface
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	// The name in parentheses may hold anything; the fields follow the last one.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(f[11], 64)
	system, _ := strconv.ParseFloat(f[12], 64)
	return (user + system) / ticksPerSecond
}

// ownCPUSeconds is what this process has used so far.
func ownCPUSeconds() float64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}
