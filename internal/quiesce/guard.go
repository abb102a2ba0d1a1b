package quiesce

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Hooks are the commands, with their arguments, and how long all may stand still.
type Hooks struct {
	Pre   []string      `json:"pre"`
	Post  []string      `json:"post"`
	Limit time.Duration `json:"limit"`
}

// What a guard says, a line each.
const (
	saysStill  = "still"   // the first hook has succeeded
	saysGoesOn = "goes on" // the second has, within the limit
	saysLate   = "late"    // the second has, because the limit was over
	saysFailed = "failed: "
)

const (
	// postLimit bounds one run of the second hook, postTries how often it is run.
	postLimit = 30 * time.Second
	postTries = 5
	// killLimit is how long a hook may take to die. One that waits for a disk cannot.
	killLimit = 2 * time.Second
)

// errStuck is a hook that was killed, and is still there.
var errStuck = errors.New("it took too long, and could not be killed")

// Guard is the main function of a guard: it takes Hooks as a line of JSON, runs the
// first hook, says so, waits for another line, and runs the second. out is closed with
// the last word. A first hook that could not be killed may still take effect: Guard stays
// then until it has ended, and runs the second once more.
func Guard(in io.Reader, out io.WriteCloser) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
	r := bufio.NewReader(in)
	line, err := r.ReadBytes('\n')
	if err != nil {
		return err
	}
	var h Hooks
	if err := json.Unmarshal(line, &h); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), h.Limit)
	defer cancel()
	told := make(chan error, 1)
	go func() {
		_, err := r.ReadBytes('\n')
		told <- err
	}()
	pre := start(ctx, h.Pre)
	say := func(text string) { fmt.Fprintln(out, strings.ReplaceAll(text, "\n", " ")) }

	var failed error
	select {
	case failed = <-pre.result:
		if failed == nil {
			say(saysStill)
		}
	case <-told: // nobody waits for it any more
		cancel()
		<-pre.result
		failed = errors.New("nobody waits for it any more")
	case <-stop:
		cancel()
		<-pre.result
		failed = errors.New("stopped")
	}
	late := false
	if failed == nil {
		select {
		case <-told:
		case <-stop:
		case <-ctx.Done():
			late = true
		}
	}
	err = goOn(h.Post)
	switch {
	case err != nil:
		say(saysFailed + "THE APPLICATION MAY STILL STAND STILL: " + err.Error())
	case failed != nil:
		say(saysFailed + failed.Error())
	case late:
		say(saysLate)
	default:
		say(saysGoesOn)
	}
	_ = out.Close() // nobody waits for what follows
	select {
	case <-pre.ended:
	default:
		<-pre.ended
		err = goOn(h.Post)
	}
	return err
}

// goOn runs the second hook, again if it fails.
func goOn(hook []string) (err error) {
	for i := range postTries {
		ctx, cancel := context.WithTimeout(context.Background(), postLimit)
		err = run(ctx, hook)
		cancel()
		if err == nil {
			return nil
		}
		time.Sleep(time.Duration(i+1) * 200 * time.Millisecond)
	}
	return err
}

// hook is one that runs.
type hook struct {
	result chan error    // how it ended; errStuck soon after ctx, where it does not end
	ended  chan struct{} // closed when it is gone
}

// run runs one hook until it has ended, or ctx has.
func run(ctx context.Context, command []string) error { return <-start(ctx, command).result }

// start runs one hook, in a process group of its own that is killed with ctx.
func start(ctx context.Context, command []string) *hook {
	h := &hook{result: make(chan error, 1), ended: make(chan struct{})}
	if len(command) == 0 {
		h.result <- nil
		close(h.ended)
		return h
	}
	h.watch(ctx, strings.Join(command, " "), func() error { return execute(ctx, command) })
	return h
}

// watch lets execute end in its own time, and tells its result in due time.
func (h *hook) watch(ctx context.Context, name string, execute func() error) {
	done := make(chan error, 1)
	go func() {
		defer close(h.ended)
		done <- execute()
	}()
	go func() {
		select {
		case err := <-done:
			h.result <- err
			return
		case <-ctx.Done():
		}
		select {
		case err := <-done:
			h.result <- err
		case <-time.After(killLimit):
			h.result <- fmt.Errorf("%s: %w", name, errStuck)
		}
	}()
}

func execute(ctx context.Context, command []string) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	runtime.LockOSThread() // the hook dies with the thread that started it: with the guard
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	cmd.Env = hookEnv(os.Environ())
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it has ended well, and left a child that holds its output
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("it took too long")
	}
	if err != nil {
		return fmt.Errorf("%s: %w %s", strings.Join(command, " "), err, strings.TrimSpace(tail(said.String())))
	}
	return nil
}

func tail(s string) string {
	const most = 500
	return s[max(0, len(s)-most):]
}
