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
)

// Guard is the main function of a guard: it takes Hooks as a line of JSON, runs the
// first hook, says so, waits for another line, and runs the second.
func Guard(in io.Reader, out io.Writer) error {
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
	pre := make(chan error, 1)
	go func() { pre <- run(ctx, h.Pre) }()
	say := func(text string) { fmt.Fprintln(out, strings.ReplaceAll(text, "\n", " ")) }

	var failed error
	select {
	case failed = <-pre:
		if failed == nil {
			say(saysStill)
		}
	case <-told: // nobody waits for it any more
		cancel()
		<-pre
		failed = fmt.Errorf("the agent is gone")
	case <-stop:
		cancel()
		<-pre
		failed = fmt.Errorf("stopped")
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

// run runs one hook, in a process group of its own that ends with ctx.
func run(ctx context.Context, hook []string) error {
	if len(hook) == 0 {
		return nil
	}
	cmd := exec.CommandContext(ctx, hook[0], hook[1:]...)
	runtime.LockOSThread() // the hook dies with the thread that started it: with the guard
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
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
		return fmt.Errorf("%s: %w %s", strings.Join(hook, " "), err, strings.TrimSpace(tail(said.String())))
	}
	return nil
}

func tail(s string) string {
	const most = 500
	return s[max(0, len(s)-most):]
}
