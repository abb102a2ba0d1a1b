package twosites

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/child"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbdclient"
)

// Lab is what the hosts of a run share. Who makes one removes its directories.
type Lab struct {
	Program   string   // pollux
	Dir       string   // for state, configurations and logs
	Runtime   string   // on tmpfs, for arenas
	Store     string   // URL of the one target
	StoreArgs []string // flags beside --store, for verbs that read it
	Target    string   // settings of the target beside name, site and url, as YAML lines of six blanks
	Memory    string   // of an agent; default 64MiB
	More      string   // further lines of each configuration
}

// TargetSite is where the object store is: at none of the hosts' sites.
const TargetSite = "elsewhere"

// Host is one host at one site. Its configuration is the same whether it runs as agent or standby.
type Host struct {
	Name, Site string

	lab     *Lab
	target  string // this host's settings of the target
	store   string // and its URL
	process *child.Process
	log     string // where it writes; "": beside the state
}

// Host makes the directories and the configuration of one.
func (l *Lab) Host(name, site string) (*Host, error) { return l.HostAt(name, site, l.Store, l.Target) }

// HostAt is Host with a way to the store of its own.
func (l *Lab) HostAt(name, site, store, target string) (*Host, error) {
	h := &Host{Name: name, Site: site, lab: l, store: store, target: target}
	for _, dir := range []string{h.dir(), filepath.Join(l.Runtime, name)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fail.Wrap(fail.Denied, "create", dir, err)
		}
	}
	memory := l.Memory
	if memory == "" {
		memory = "64MiB"
	}
	conf := fmt.Sprintf("name: %s\nsite: %s\nstate: %q\nruntime: %q\nmemory: %s\njournal:\n  targets:\n"+
		"    - name: remote\n      site: %s\n      url: %q\n%s%s", name, site, h.State(),
		filepath.Join(l.Runtime, name), memory, TargetSite, store, target, l.More)
	return h, fail.Wrap(fail.Full, "write", h.Config(), os.WriteFile(h.Config(), []byte(conf), 0o600))
}

func (h *Host) dir() string { return filepath.Join(h.lab.Dir, h.Name) }

// State is the host's state directory.
func (h *Host) State() string { return filepath.Join(h.dir(), "state") }

// Config is the path of its configuration.
func (h *Host) Config() string { return filepath.Join(h.dir(), "agent.yaml") }

// Log is where its daemon writes.
func (h *Host) Log() string {
	if h.log != "" {
		return h.log
	}
	return filepath.Join(h.dir(), "log")
}

// Socket is its control socket.
func (h *Host) Socket() string { return filepath.Join(h.State(), "control.sock") }

// Image is where a standby has a volume's image, and an agent that it has become its backing.
func (h *Host) Image(volume string) string { return filepath.Join(h.State(), "volumes", volume+".img") }

// URI names a volume for NBD clients.
func (h *Host) URI(volume string) string {
	return "nbd+unix:///" + volume + "?socket=" + filepath.Join(h.State(), "nbd.sock")
}

// Process is the daemon's, nil before the first start.
func (h *Host) Process() *child.Process { return h.process }

// Start runs a daemon of the host: `pollux VERB -c CONFIG`.
func (h *Host) Start(verb ...string) error {
	log, err := os.OpenFile(h.Log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fail.Wrap(fail.Denied, "create", h.Log(), err)
	}
	defer log.Close()
	cmd := exec.Command(h.lab.Program, append(verb, "-c", h.Config())...)
	cmd.Stdout, cmd.Stderr = log, log
	if h.process, err = child.Start(cmd); err != nil {
		return fail.Wrap(fail.NotFound, "start", h.lab.Program, err)
	}
	return nil
}

// StartAgent runs `pollux agent` and waits until it answers.
func (h *Host) StartAgent(ctx context.Context) error { return h.startAnd(ctx, "agent") }

// StartStandby runs `pollux standby` and waits until it answers.
func (h *Host) StartStandby(ctx context.Context) error { return h.startAnd(ctx, "standby") }

func (h *Host) startAnd(ctx context.Context, verb string) error {
	if err := h.Start(verb); err != nil {
		return err
	}
	return h.Until(ctx, startTimeout, "it answers", func() error { _, err := h.Status(ctx); return err })
}

// Kill ends the daemon as the loss of its host would. It may have ended.
func (h *Host) Kill() {
	if h.process != nil {
		h.process.Kill()
	}
}

// Stop ends the daemon in order.
func (h *Host) Stop() error {
	if h.process != nil && !h.process.End(syscall.SIGTERM, stopTimeout) {
		return fail.New(fail.Internal, "stop", "host "+h.Name, "it ignores SIGTERM")
	}
	return nil
}

const (
	startTimeout = 60 * time.Second
	stopTimeout  = 60 * time.Second
)

// Status asks the daemon.
func (h *Host) Status(ctx context.Context) (*api.Status, error) {
	var st api.Status
	err := api.Dial(h.Socket()).Call(ctx, api.VerbStatus, struct{}{}, &st)
	return &st, err
}

// Group is a group's status.
func (h *Host) Group(ctx context.Context, name string) (*api.GroupStatus, error) {
	st, err := h.Status(ctx)
	if err != nil {
		return nil, err
	}
	for i := range st.Groups {
		if st.Groups[i].Name == name {
			return &st.Groups[i], nil
		}
	}
	return nil, fail.New(fail.NotFound, "ask", "host "+h.Name, "it has no group "+name)
}

// Drained waits until the store holds all of a group that was acknowledged.
func (h *Host) Drained(ctx context.Context, group string) error {
	return h.Until(ctx, drainTimeout, "the store has all of group "+group, func() error {
		g, err := h.Group(ctx, group)
		if err == nil && (g.DurableLSN < g.LastLSN || g.LagSeconds > 0) {
			err = fmt.Errorf("LSN %d of %d: %s %s", g.DurableLSN, g.LastLSN, g.State, g.Reason)
		}
		return err
	})
}

// Follows waits until the standby's image of a volume is at an LSN, and follows.
func (h *Host) Follows(ctx context.Context, volume string, lsn uint64) (*api.StandbyStatus, error) {
	var out *api.StandbyStatus
	err := h.Until(ctx, drainTimeout, fmt.Sprintf("it follows %s at LSN %d", volume, lsn), func() error {
		st, err := h.Status(ctx)
		if err != nil {
			return err
		}
		if st.Standby == nil {
			return fmt.Errorf("it is no standby")
		}
		out = st.Standby
		for _, g := range out.Groups {
			for _, v := range g.Volumes {
				if v.Name == volume && v.State == "following" && v.LSN >= lsn {
					return nil
				}
			}
		}
		return fmt.Errorf("%+v %s", out.Groups, out.Error)
	})
	return out, err
}

const drainTimeout = 10 * time.Minute

// Until polls until ok returns nil, the daemon ends or the time is over.
func (h *Host) Until(ctx context.Context, limit time.Duration, what string, ok func() error) error {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	for {
		err := ok()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-h.process.Done():
			return fail.New(fail.OfExit(h.process.ExitCode()), "run", "host "+h.Name, "it ended: "+h.lastWords())
		case <-deadline.C:
			return fail.New(fail.KindOf(err), "wait until", what, fmt.Sprintf("not within %v: %v", limit, err))
		case <-time.After(pollPeriod):
		}
	}
}

const pollPeriod = 2 * time.Millisecond

// lastWords is what the daemon said when it ended: pollux's error and hint.
func (h *Host) lastWords() string {
	text, _ := os.ReadFile(h.Log()) // none is none
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if words, ok := strings.CutPrefix(lines[i], "pollux: "); ok {
			return strings.Join(append([]string{words}, lines[i+1:]...), ";")
		}
	}
	return lines[len(lines)-1]
}

// Verb runs a verb as an operator of the host would, with --json, and decodes what it prints. into
// may be nil.
func (h *Host) Verb(ctx context.Context, into any, args ...string) error {
	var out, errs bytes.Buffer
	cmd := exec.Command(h.lab.Program, append(args, "--json")...)
	cmd.Env = append(os.Environ(), "POLLUX_SOCKET="+h.Socket())
	cmd.Stdout, cmd.Stderr = &out, &errs
	p, err := child.Start(cmd)
	if err != nil {
		return fail.Wrap(fail.NotFound, "start", h.lab.Program, err)
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		p.Kill()
		return ctx.Err()
	}
	if p.Err() != nil {
		return fail.New(fail.OfExit(p.ExitCode()), "run", "pollux "+args[0],
			fmt.Sprintf("%v: %s", p.Err(), bytes.TrimSpace(errs.Bytes())))
	}
	if into == nil {
		return nil
	}
	return fail.Wrap(fail.Internal, "decode output of", "pollux "+args[0], json.Unmarshal(out.Bytes(), into))
}

// Mount runs a verb that serves a volume over NBD until it is ended, and connects to it.
func (h *Host) Mount(ctx context.Context, args ...string) (conn *nbdclient.Conn, end func(), err error) {
	out, err := os.Create(filepath.Join(h.dir(), "mount"))
	if err != nil {
		return nil, nil, fail.Wrap(fail.Full, "create", h.dir(), err)
	}
	defer out.Close()
	socket := filepath.Join(h.dir(), "mount.sock")
	cmd := exec.Command(h.lab.Program, append(args, "--socket", socket, "--json")...)
	cmd.Stdout, cmd.Stderr = out, out
	m := &Host{Name: h.Name, lab: h.lab, log: out.Name()}
	if m.process, err = child.Start(cmd); err != nil {
		return nil, nil, fail.Wrap(fail.NotFound, "start", h.lab.Program, err)
	}
	var at struct {
		URI string `json:"uri"`
	}
	err = m.Until(ctx, startTimeout, "it is served", func() error {
		b, err := os.ReadFile(out.Name())
		if err == nil {
			err = json.Unmarshal(b, &at)
		}
		if err == nil {
			conn, err = nbdclient.Dial(ctx, at.URI, nil)
		}
		return err
	})
	if err != nil {
		m.process.Kill()
		return nil, nil, err
	}
	return conn, func() { _ = conn.Close(); _ = m.Stop() }, nil
}

// StoreVerb is Verb for one that reads the store.
func (h *Host) StoreVerb(ctx context.Context, into any, args ...string) error {
	return h.Verb(ctx, into, append(append(args, "--store", h.store), h.lab.StoreArgs...)...)
}
