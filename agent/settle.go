package agent

import (
	"context"
	"net"

	"github.com/cockroachdb/errors/oserror"

	"github.com/pollux-dr/pollux/agent/arena"
	"github.com/pollux-dr/pollux/internal/fail"
)

// Settle brings the backings of an agent that is not to serve any more up to all that it
// acknowledged: what its WAL has beyond the checkpoints, and what the arena has beyond the WAL, is
// applied and synced, as a start and a stop do it. Nothing is shipped, and nothing leaves the WAL.
// It may be repeated. Errors: those of Open; fail.Refused where a backing is not there, because
// what the WAL has for it would be in none.
func Settle(ctx context.Context, o Options) error {
	o.setDefaults()
	o.WALBudgetBytes += 2 * o.MemoryBytes // a full WAL takes what the arena has, too
	fresh := false
	if _, err := o.FS.Stat(o.ArenaPath); oserror.IsNotExist(err) { // nothing was left in it
		fresh, o.MemoryBytes = true, arena.MinBytes
	}
	o.Committed, o.Remote = nil, nil
	o.Dial = func(context.Context) (net.Conn, error) {
		return nil, fail.New(fail.Refused, "connect", "journal", "this agent does not ship any more")
	}
	a := prepare(o)
	err := a.open()
	for _, s := range a.streams {
		if err == nil && s.suspended != nil {
			err = fail.At("settle", "group "+s.conf.Group, s.suspended)
		}
	}
	if err != nil {
		a.cancel()
		a.closeFiles()
		return err
	}
	for _, s := range a.streams {
		a.startStream(s)
	}
	mem := a.mem
	err = a.Close(ctx)
	if err == nil && fresh {
		err = mem.Remove()
	}
	return err
}
