package twin

import (
	"context"
	"fmt"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/state"
)

// stop ends the log before a position.
func (l *Log) stop(position uint64, err error) {
	if l.Damage == nil || position < l.End {
		l.Damage, l.End = err, position
	}
}

// branch looks for later writers behind the damage. Where one went on from a
// journal index before it, as its fence or its first segment says, the entries
// from there on are a dead branch.
func (l *Log) branch(ctx context.Context, cur segment.Token, all []footer, rest []located) error {
	more, err := l.footers(ctx, rest, nil)
	if err != nil {
		return err
	}
	for _, f := range append(all[:len(all):len(all)], more...) {
		x := f.x
		if x != nil && x.Type != segment.Identity && x.Journal == l.Identity.Journal && x.Token.Compare(cur) > 0 {
			if l.Catalog != nil && x.FirstIndex <= l.Catalog.ReadPoints[l.readPoint].Index {
				return errBranch
			}
			cur = x.Token
			l.cut(x.FirstIndex)
		}
	}
	return nil
}

// lost is the error of a point that the damage may have taken, with what is left
// of the volume's history; v may be nil.
func (l *Log) lost(ctx context.Context, what string, v *state.Volume) error {
	cause := l.Damage
	if v != nil {
		cause = l.DamageOf(v)
	}
	e := &fail.Error{Kind: fail.KindOf(cause), Op: "resolve", Object: what, Err: cause}
	left := "no point of this volume lies before the damage"
	if v == nil {
		left = "only volumes and bookmarks before the damage are known"
	} else if r, ok := l.RangeOf(v.Stream); ok && v.Ready && v.FirstLSN <= r.LastLSN {
		left = fmt.Sprintf("older points can be restored, LSN %d to %d (%s): name one with --at", l.FirstPoint(ctx, v),
			r.LastLSN, r.LastTime.UTC().Format(time.RFC3339Nano))
	}
	if hint := fail.HintOf(cause); hint != "" {
		left = hint + "; " + left
	}
	return e.WithHint(left + "; pollux dump log --store " + l.store.URL() + " shows all damage")
}
