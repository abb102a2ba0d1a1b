package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/doctor"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/journal"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// ownTimeout is how long the agent may take to say which journal is its own.
const ownTimeout = 5 * time.Second

// ownJournal tells which journal the state directory holds, and what that has written:
// the agent says it while it runs, else the directory does.
func ownJournal(ctx context.Context, conf *config.Agent) (*journal.Peeked, error) {
	ctx, cancel := context.WithTimeout(ctx, ownTimeout)
	defer cancel()
	var st api.Status
	if err := api.Dial(conf.Socket).Call(ctx, api.VerbStatus, struct{}{}, &st); err == nil {
		if id, err := uuid.Parse(st.Journal.ID); err == nil {
			own := &journal.Peeked{Journal: id, Positions: map[string]uint64{}}
			for i := range st.Targets {
				own.Positions[st.Targets[i].Name] = st.Targets[i].Position
			}
			return own, nil
		}
	}
	return journal.Peek(vfs.Default, filepath.Join(conf.State, "journal"))
}

// logOwner compares who the log in a target belongs to with the journal in the state
// directory, as the agent does before it writes there, and says it in the same words.
func logOwner(ctx context.Context, conf *config.Agent, target string, s objstore.Store) doctor.Result {
	const op = "compare"
	out := doctor.Result{Level: doctor.OK, Subject: s.URL(), Check: "owner of the log"}
	failed := func(err error) doctor.Result {
		out.Level, out.Hint = doctor.Fail, fail.HintOf(err)
		if e := new(fail.Error); errors.As(err, &e) && e.Op == op { // its object is the subject here
			err = e.Err
		}
		out.Text = err.Error()
		return out
	}
	own, err := ownJournal(ctx, conf)
	if err != nil && !fail.Is(err, fail.NotFound) {
		out.Level, out.Text = doctor.Warn, "it cannot be compared with the journal of this host: "+err.Error()
		return out
	}
	fresh := err != nil
	x, err := objlog.ReadIndex(ctx, s, 0)
	missing := fail.Is(err, fail.NotFound)
	switch {
	case err != nil && !missing:
		return failed(err)
	case missing && (fresh || own.Positions[target] == 0):
		out.Text = "no log is here yet; the agent begins one"
		return out
	case missing:
		return failed(objlog.ErrLost(op, s, 0, own.Positions[target]))
	case fresh && len(conf.Journal.Peers) > 0:
		out.Text = fmt.Sprintf("journal %s; this host is in none yet", x.Journal)
		return out
	case fresh:
		out.Level, out.Hint = doctor.Warn,
			"give this target a prefix of its own; `pollux recover` takes over from a host that is lost"
		out.Text = fmt.Sprintf("it belongs to journal %s, and this host, which has no journal yet, would begin another",
			x.Journal)
		return out
	case x.Journal != own.Journal:
		return failed(objlog.ErrForeign(op, s, x.Journal, own.Journal))
	}
	if last := own.Positions[target]; last > 1 {
		if _, err := objlog.ReadIndex(ctx, s, last-1); fail.Is(err, fail.NotFound) {
			return failed(objlog.ErrLost(op, s, last-1, last))
		} else if err != nil {
			return failed(err)
		}
	}
	out.Text = fmt.Sprintf("journal %s, as in %s", x.Journal, conf.State)
	return out
}
