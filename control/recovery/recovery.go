package recovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/control/node"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/hostdev"
	"github.com/pollux-dr/pollux/replicator/journal/journalclient"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/image"
	"github.com/pollux-dr/pollux/transport"
)

// Options say what is rebuilt, and who is asked and told.
type Options struct {
	Conf *config.Agent
	Path string // of the configuration, for hints
	// OpenLog opens the object log that the volumes are restored from.
	OpenLog   func(ctx context.Context) (*twin.Log, func(), error)
	Overwrite bool // restore even where a backing is there already
	DryRun    bool // change nothing
	// Confirm is asked before anything is changed; its error ends the run.
	Confirm func(what, name string) error
	// Tell hears what it waits for.
	Tell func(text string)
	// Stage is image.Options.Stage.
	Stage  func(what string) (twin.Progress, func())
	Logger *slog.Logger
}

// recovery is one run.
type recovery struct {
	Options
	conf *config.Agent

	streams []agent.StreamConf
	volumes []state.Volume
	skipped []string
	behind  int64 // bytes that a required target lacks
}

// Report is what was rebuilt, or would be.
type Report struct {
	Agent   string   `json:"agent"`
	DryRun  bool     `json:"dry_run"`
	Volumes []Volume `json:"volumes"`
	Skipped []string `json:"skipped,omitempty"` // never complete in the store
	Seconds float64  `json:"seconds"`
	// BehindBytes is how much, in a dry run, the journal has and the store still lacks. The
	// run waits for it, so its points will be newer than those that are shown.
	BehindBytes int64 `json:"behind_bytes,omitempty"`
}

// Volume is one of them.
type Volume struct {
	Name    string `json:"name"`
	Group   string `json:"group"`
	Backing string `json:"backing"`
	Size    int64  `json:"size_bytes"`
	LSN     uint64 `json:"lsn"`
	Target  string `json:"target"` // what was there before
}

// preview fills in, before anything is changed, the points that the volumes would be restored
// to: the newest in the store. The run may find newer ones, because it first waits until the
// store has what the journal has, and because the old host may still be writing.
func (r *recovery) preview(ctx context.Context, rep *Report) error {
	if len(r.volumes) == 0 {
		return nil
	}
	l, closeStore, err := r.OpenLog(ctx)
	if err != nil {
		return err
	}
	defer closeStore()
	for i := range r.volumes {
		p, err := l.PointOf(ctx, r.volumes[i].Name, "")
		if err != nil {
			return err
		}
		rep.Volumes[i].LSN = p.LSN
	}
	rep.BehindBytes = r.behind
	return nil
}

const (
	recoverSync  = 20 * time.Second
	recoverDrain = time.Hour
)

// Run rebuilds an agent's host: it takes the leases of its streams, waits until the store has
// all that the journal has, restores the volumes to that point, and writes the agent's state.
func Run(ctx context.Context, o Options) (*Report, error) {
	return (&recovery{Options: o, conf: o.Conf}).run(ctx)
}

func (r *recovery) run(ctx context.Context) (rep *Report, err error) {
	start := time.Now()
	conf := r.conf
	if len(conf.Journal.Addresses) == 0 {
		return nil, fail.New(fail.Refused, "recover", "agent "+conf.Name,
			"its journal was on this host, and is lost as well").
			WithHint("pollux restore brings the volumes back from the object store")
	}
	unlock, err := node.LockState(conf, r.DryRun)
	if err != nil {
		return nil, err
	}
	defer unlock()
	dir := filepath.Join(conf.State, "agent")
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return nil, fail.New(fail.Exists, "recover into", dir, "an agent's state is there").
			WithHint("if that is lost or damaged, move " + dir + " away first")
	}
	find := transport.NewFinder(conf.Journal.Addresses, conf.Identity.Files().Dial)
	if err := r.look(ctx, find); err != nil {
		return nil, err
	}
	rep = &Report{Agent: conf.Name, DryRun: r.DryRun, Volumes: []Volume{}, Skipped: r.skipped}
	targets, err := r.inspect(rep)
	if err != nil {
		return nil, err
	}
	if err := r.preview(ctx, rep); err != nil { // a store that is not there, before the old host is fenced
		return nil, err
	}
	if r.DryRun {
		return rep, nil
	}
	names := make([]string, 0, len(r.volumes))
	for i := range r.volumes {
		names = append(names, fmt.Sprintf("%s (LSN %d in the store by now)", r.volumes[i].Name, rep.Volumes[i].LSN))
	}
	rep.BehindBytes = 0
	what := fmt.Sprintf("The old host of agent %s, if it lives, is fenced for good. "+
		"These volumes are restored to the journal's newest point: %s.", conf.Name, strings.Join(names, ", "))
	if err := r.Confirm(what, conf.Name); err != nil {
		return nil, err
	}
	taken, err := r.takeOver(ctx, find)
	if err != nil {
		return nil, err
	}
	if err := r.restore(ctx, rep, targets, taken); err != nil {
		return nil, err
	}
	_ = os.Remove(node.ArenaPath(conf)) // of writes that no log holds
	if err := agent.Rebuild(vfs.Default, dir, conf.Name, r.streams, r.agentVolumes(), taken); err != nil {
		return nil, err
	}
	rep.Seconds = time.Since(start).Seconds()
	return rep, nil
}

// look finds out from the journal what the agent had.
func (r *recovery) look(ctx context.Context, find *transport.Finder) error {
	ctx, cancel := context.WithTimeout(ctx, recoverSync)
	defer cancel()
	client := journalclient.New(journalclient.Options{Agent: r.conf.Name, Finder: find, Logger: r.Logger})
	done := make(chan struct{})
	go func() { client.Run(ctx); close(done) }()
	defer func() { cancel(); <-done }()
	for !client.Synced() {
		select {
		case <-client.Changed():
		case <-ctx.Done():
			return fail.New(fail.Retry, "reach", "journal", client.Err().Error()).
				WithHint("is a majority of its members up? See journal.addresses")
		}
	}
	for _, t := range client.Info().Targets {
		if !t.Optional {
			r.behind = max(r.behind, t.BacklogBytes)
		}
	}
	var err error
	client.View(func(s *state.State) {
		for _, st := range s.Streams {
			if st.Agent == r.conf.Name {
				if st.Resyncing() {
					after := st.Resyncs[len(st.Resyncs)-1].After
					err = fail.New(fail.Refused, "recover", "group "+st.Group,
						fmt.Sprintf("its host was lost during a resync: the log's newest point is LSN %d", after)).
						WithHint(fmt.Sprintf("pollux restore VOLUME --at %d, and protect the volumes in a new group",
							after))
				}
				g := s.Groups[st.Group]
				r.streams = append(r.streams,
					agent.StreamConf{ID: st.ID, Number: st.Number, Group: st.Group, Paused: g.Paused,
						Policy: agent.Policy{Ack: g.Ack, OnLoss: g.OnAckLoss, Overflow: g.Overflow}})
			}
		}
		for _, v := range state.Sorted(s.Volumes, func(v *state.Volume) string { return v.Name }) {
			switch {
			case v.Agent != r.conf.Name || v.Removed:
			case !v.Ready:
				r.skipped = append(r.skipped, v.Name)
			default:
				r.volumes = append(r.volumes, *v)
			}
		}
	})
	if err != nil {
		return err
	}
	if len(r.streams) == 0 {
		return fail.New(fail.NotFound, "recover", "agent "+r.conf.Name, "the journal knows no stream of it").
			WithHint("is `name` in " + r.Path + " the lost agent's?")
	}
	return nil
}

// inspect looks at the backings' places.
func (r *recovery) inspect(rep *Report) ([]*image.Target, error) {
	var out []*image.Target
	for i := range r.volumes {
		v := &r.volumes[i]
		t, err := r.targetOf(v)
		if err == nil {
			t.Interrupted(v, &image.Options{})
			err = t.Refused(r.Overwrite)
		}
		if err != nil {
			return nil, err
		}
		rep.Volumes = append(rep.Volumes, Volume{Name: v.Name, Group: v.Group, Backing: v.Backing, Size: v.SizeBytes,
			Target: t.What})
		out = append(out, t)
	}
	return out, nil
}

// targetOf looks at a backing's place. A dry run makes no directory for it, and says
// what would be so in one.
func (r *recovery) targetOf(v *state.Volume) (*image.Target, error) {
	dir := filepath.Dir(v.Backing)
	if _, err := os.Stat(dir); r.DryRun && errors.Is(err, os.ErrNotExist) && !hostdev.BelowDev(v.Backing) {
		return image.Absent(v.Backing, v.SizeBytes), nil
	}
	if !hostdev.BelowDev(v.Backing) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fail.Wrap(fail.Denied, "create", dir, err)
		}
	}
	return image.Inspect(v.Backing, v.SizeBytes)
}

func (r *recovery) takeOver(ctx context.Context, find *transport.Finder) (map[change.StreamID]agent.Taken, error) {
	ctx, cancel := context.WithTimeout(ctx, recoverDrain)
	defer cancel()
	var ids []change.StreamID
	for i := range r.streams {
		ids = append(ids, r.streams[i].ID)
	}
	for asked := 1; ; asked++ {
		conn, err := find.Dial(ctx)
		if err == nil {
			var taken map[change.StreamID]agent.Taken
			taken, err = agent.TakeOver(ctx, conn, r.conf.Name, ids, func(_ change.StreamID, durable, want uint64) {
				if durable < want {
					r.Tell(fmt.Sprintf("the store holds LSN %d of %d", durable, want))
				}
			})
			if err == nil {
				return taken, nil
			}
			find.SetLeader("")
		}
		if !fail.Is(err, fail.Retry) || ctx.Err() != nil {
			return nil, err
		}
		if asked < len(r.conf.Journal.Addresses) {
			continue // that a member does not lead is no news before all have been asked
		}
		r.Tell("trying again: " + err.Error())
		time.Sleep(time.Second)
	}
}

func (r *recovery) restore(ctx context.Context, rep *Report, targets []*image.Target,
	taken map[change.StreamID]agent.Taken) error {
	if len(r.volumes) == 0 {
		return nil
	}
	l, closeStore, err := r.OpenLog(ctx)
	if err != nil {
		return err
	}
	defer closeStore()
	for i := range r.volumes {
		v, err := l.Volume(r.volumes[i].Name)
		if err != nil {
			return err
		}
		lsn := taken[v.Stream].Point.LSN
		at := ""
		if lsn > 0 {
			at = strconv.FormatUint(lsn, 10)
		}
		p, err := l.Resolve(ctx, v, at, time.Now())
		if err != nil {
			return err
		}
		if p.LSN != lsn {
			return fail.New(fail.Damaged, "recover", v.Name,
				fmt.Sprintf("the store's newest point is LSN %d, the journal's %d", p.LSN, lsn)).
				WithHint("is this the journal's store?")
		}
		if _, err := image.Restore(ctx, l, p, targets[i], image.Options{Restart: true, Stage: r.Stage}); err != nil {
			return err
		}
		rep.Volumes[i].LSN = lsn
	}
	return nil
}

func (r *recovery) agentVolumes() []agent.VolumeConf {
	var out []agent.VolumeConf
	for i := range r.volumes {
		v := &r.volumes[i]
		out = append(out, agent.VolumeConf{Name: v.Name, Number: v.Number, Group: v.Group, Stream: v.Stream,
			SizeBytes: v.SizeBytes, Backing: v.Backing, Ready: true, ReadyLSN: v.FirstLSN})
	}
	return out
}
