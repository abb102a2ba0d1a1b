package twin

import (
	"context"
	"errors"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// located is an object of the log as a List tells it.
type located struct {
	position uint64
	bytes    int64
	tag      string // of the object's content; "" where that is not known
}

// everything is an end behind all positions.
const everything = ^uint64(0)

// errEnough ends a list.
var errEnough = errors.New("enough")

// positions lists the log's objects in order, from one position on, up to another.
func positions(ctx context.Context, s objstore.Store, first, end uint64) ([]located, error) {
	var all []located
	after := ""
	if first > 0 {
		after = objlog.ObjectName(first - 1)
	}
	err := s.List(ctx, objlog.Prefix, after, func(i objstore.Info) error {
		pos, ok := objlog.PositionOf(i.Name)
		if ok && pos >= end {
			return errEnough
		}
		if ok { // else not ours
			all = append(all, located{pos, i.Bytes, i.Tag})
		}
		return nil
	})
	if err == errEnough {
		err = nil
	}
	if err == nil && len(all) == 0 && first == 0 {
		err = fail.New(fail.NotFound, "open", s.URL(), "no object log here").
			WithHint("check bucket and prefix; a journal writes log/ below its target's URL")
	}
	return all, err
}

// asked bounds the names that are asked for in vain in one go. Where that many are not
// there, objects are missing, and it does not matter which.
const asked = 256

// whole asks by name for what a list lacks from one position up to another, or to the
// last object that it has: a list is no snapshot, and what was created while it ran may
// be in it without what was created before.
func whole(ctx context.Context, s objstore.Store, all []located, first, end uint64) ([]located, error) {
	out, next, absent := make([]located, 0, len(all)), first, 0
	ask := func(to uint64) error {
		for ; next < to && absent < asked; next++ {
			n, err := s.Size(ctx, objlog.ObjectName(next))
			switch {
			case err == nil:
				out = append(out, located{next, n, ""})
			case fail.Is(err, fail.NotFound):
				absent++
			default:
				return err
			}
		}
		return nil
	}
	for _, o := range all {
		if err := ask(o.position); err != nil {
			return nil, err
		}
		out, next = append(out, o), max(next, o.position+1)
	}
	if end == everything {
		return out, nil
	}
	return out, ask(end)
}

// contiguous returns how many of all lie without a gap from the first position on.
func contiguous(all []located, first uint64) int {
	for i := range all {
		if all[i].position != first+uint64(i) {
			return i
		}
	}
	return len(all)
}
