package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
)

const (
	groupName  = "bench"
	volumeName = "disk"
	// drainTimeout bounds the wait for the store; a remote one may be slow.
	drainTimeout = 10 * time.Minute
	pollInterval = 2 * time.Millisecond
)

// agentProc is a running `pollux agent` with one volume.
type agentProc struct {
	*proc
	dir     string
	store   string // URL of its target
	backing string
	uri     string // of the volume over NBD
	control *api.Client
	socket  string
	// syncTime is how long the initial sync took until the store held it.
	syncTime time.Duration
}

// startAgent runs an agent that protects a file of the session's size, prepared
// like the others', and waits until the store holds all of it. A negative rate
// is the product's default.
func (s *session) startAgent(ctx context.Context, name string, rate float64) (*agentProc, error) {
	a := &agentProc{dir: filepath.Join(s.dir, name)}
	if s.journal != nil {
		a.store = s.journal.store
	} else {
		a.store = s.prefix(name)
	}
	a.backing, a.socket = filepath.Join(a.dir, "disk.img"), filepath.Join(a.dir, "control.sock")
	if err := os.Mkdir(a.dir, 0o700); err != nil {
		return nil, fail.Wrap(fail.Denied, "create", a.dir, err)
	}
	if err := s.prepare(a.backing); err != nil {
		return nil, err
	}
	conf := filepath.Join(a.dir, "agent.yaml")
	if err := os.WriteFile(conf, []byte(s.agentYAML(a, name, rate)), 0o600); err != nil {
		return nil, fail.Wrap(fail.Denied, "create", conf, err)
	}
	cmd := exec.Command(s.o.Program, "agent", "-c", conf)
	cmd.Dir = a.dir
	var err error
	if a.proc, err = startProc(s.dir, name, cmd); err != nil {
		return nil, err
	}
	a.control = api.Dial(a.socket)
	if err := a.setUp(ctx); err != nil {
		a.kill()
		return nil, err
	}
	return a, nil
}

// prepare makes a file of the volume's size.
func (s *session) prepare(path string) error {
	if !s.o.sparse {
		return s.data.prepare(path, int64(s.o.Size), s.o.Seed)
	}
	f, err := createImage(path, int64(s.o.Size))
	if err != nil {
		return err
	}
	return f.Close()
}

// setUp creates the volume, whose content goes through the log first.
func (a *agentProc) setUp(ctx context.Context) error {
	err := try(ctx, a.proc, func() error { _, err := a.status(ctx); return err })
	if err != nil {
		return err
	}
	var g api.Group
	if err := a.control.Call(ctx, api.VerbGroupPut, api.GroupPut{Name: groupName, Create: true}, &g); err != nil {
		return err
	}
	begin := time.Now()
	var v api.Volume
	r := api.VolumeCreate{Name: volumeName, Group: groupName, Backing: a.backing}
	if err := a.control.Call(ctx, api.VerbVolumeCreate, r, &v); err != nil {
		return err
	}
	a.uri = v.NBD
	_, err = a.drain(ctx)
	a.syncTime = time.Since(begin)
	return err
}

// agentYAML quotes by JSON, which YAML contains.
func (s *session) agentYAML(a *agentProc, name string, rate float64) string {
	q := quoted
	var y strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&y, format+"\n", args...) }
	line("name: %s", q(name))
	line("state: %s", q(filepath.Join(a.dir, "state")))
	line("runtime: %s", q(s.tmpfs))
	line("socket: %s", q(a.socket))
	line("memory: %d", int64(s.o.Memory))
	line("nbd:\n  unix: %s\n  max_connections: 2048", q(filepath.Join(a.dir, "nbd.sock")))
	line("log:\n  level: warn")
	line("journal:")
	if s.journal != nil {
		line("  addresses: [%s]", strings.Join(s.journal.addresses, ", "))
		return y.String()
	}
	return y.String() + s.targetYAML("  ", a.store, rate)
}

func quoted(v string) string {
	b, _ := json.Marshal(v)
	return string(b)
}

// targetYAML are the lines about the target, indented.
func (s *session) targetYAML(indent, url string, rate float64) string {
	var y strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&y, indent+format+"\n", args...) }
	line("targets:")
	line("  - name: bench")
	line("    url: %s", quoted(url))
	y.WriteString(s.settingsYAML(indent + "    "))
	if rate >= 0 {
		line("    requests: {rate: %s}", strconv.FormatFloat(rate, 'f', -1, 64))
	}
	return y.String()
}

// settingsYAML are the lines about the way to the target's store, indented.
func (s *session) settingsYAML(indent string) string {
	var y strings.Builder
	for _, f := range []struct{ key, value string }{{"endpoint", s.sopts.Endpoint}, {"region", s.sopts.Region},
		{"credentials_file", s.sopts.CredentialsFile}, {"ca_file", s.sopts.CAFile}} {
		if f.value != "" {
			fmt.Fprintf(&y, "%s%s: %s\n", indent, f.key, quoted(f.value))
		}
	}
	return y.String()
}

func (a *agentProc) status(ctx context.Context) (*api.Status, error) {
	var st api.Status
	err := a.control.Call(ctx, api.VerbStatus, struct{}{}, &st)
	return &st, err
}

// group returns the status of the one group, and an error if it cannot get on.
func (a *agentProc) group(ctx context.Context) (*api.Status, *api.GroupStatus, error) {
	st, err := a.status(ctx)
	select {
	case <-a.Done():
		return nil, nil, a.failure()
	default:
	}
	switch {
	case err != nil:
		return nil, nil, err
	case len(st.Groups) != 1:
		return nil, nil, fail.New(fail.Internal, "ask", a.name, fmt.Sprintf("%d groups", len(st.Groups)))
	}
	g := &st.Groups[0]
	switch g.State {
	case "Faulted", "Fenced", "Suspended":
		return nil, nil, fail.New(fail.Internal, "protect", volumeName, g.State+": "+g.Reason)
	}
	return st, g, nil
}

// drain waits until the store holds everything, and says how long that took.
func (a *agentProc) drain(ctx context.Context) (time.Duration, error) {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	for {
		_, g, err := a.group(ctx)
		if err != nil {
			return 0, err
		}
		if g.LagBytes == 0 && g.DurableLSN >= g.LastLSN {
			return time.Since(begin), nil
		}
		select {
		case <-ctx.Done():
			return 0, fail.Wrap(fail.Retry, "wait for the store of", a.name, ctx.Err())
		case <-time.After(pollInterval):
		}
	}
}

// idle waits, after drain, until the backing holds everything as well.
func (a *agentProc) idle(ctx context.Context) error {
	for deadline := time.Now().Add(time.Minute); ; {
		st, _, err := a.group(ctx)
		if err != nil || st.Agent.MemoryBytes < 1<<20 {
			return err
		}
		if time.Now().After(deadline) {
			return fail.New(fail.Retry, "wait for", a.name,
				fmt.Sprintf("%d bytes are still in memory", st.Agent.MemoryBytes))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pollInterval):
		}
	}
}

// kill ends the agent without ceremony: its directory goes anyway.
func (a *agentProc) kill() { a.stop(0) }

func unixURI(export, socket string) string {
	u := url.URL{Scheme: "nbd+unix", Path: "/" + export, RawQuery: url.Values{"socket": {socket}}.Encode()}
	return "nbd+unix://" + u.EscapedPath() + "?" + u.RawQuery
}
