package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pollux-dr/pollux/internal/child"
	"github.com/pollux-dr/pollux/internal/fail"
)

// proc is a child process with its output in a file.
type proc struct {
	*child.Process
	name string
	log  string
}

func startProc(dir, name string, cmd *exec.Cmd) (*proc, error) {
	p := &proc{name: name, log: filepath.Join(dir, name+".log")}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fail.Wrap(fail.Denied, "create", p.log, err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if p.Process, err = child.Start(cmd); err != nil {
		return nil, fail.Wrap(fail.NotFound, "start", cmd.Path, err)
	}
	return p, nil
}

// stop asks the process to end, and kills it when it has not after a while. A
// stopped one may be stopped again.
func (p *proc) stop(patience time.Duration) { p.End(syscall.SIGTERM, patience) }

// failure is the error of a process that should be running and is not.
func (p *proc) failure() error {
	tail, _ := os.ReadFile(p.log)
	if len(tail) > 2000 {
		tail = tail[len(tail)-2000:]
	}
	return fail.New(fail.Internal, "run", p.name, fmt.Sprintf("it ended: %v\n%s", p.Err(), bytes.TrimSpace(tail)))
}

// cpuSeconds is what the process has used so far, in steps of 10 ms.
func (p *proc) cpuSeconds() float64 { return processCPU(p.PID()) }

func processCPU(pid int) float64 {
	const ticksPerSecond = 100 // USER_HZ, fixed in the kernel's interface
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
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
