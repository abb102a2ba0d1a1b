package main

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// retryLimit is how many failed attempts a verb waits out before it gives up;
// the daemon, which has time, never does.
const retryLimit = 5

// openStore opens a store for a verb.
func openStore(ctx context.Context, f *storeFlags) (objstore.Store, func(), error) {
	if f.url == "" {
		return nil, nil, fail.New(fail.Invalid, "open", "object store", "none is named").WithHint("name it with --store file:///directory or s3://bucket/prefix")
	}
	warnExposed(f.opts.CredentialsFile)
	f.opts.ReadOnly = f.opts.ReadOnly || !f.writes // only the daemon and gc write
	s, err := objstore.Open(ctx, f.url, f.opts)
	if err != nil {
		return nil, nil, err
	}
	var tries atomic.Int32
	s = objstore.WithRetry(s, objstore.Policy{
		Retryable: func(err error) bool {
			return fail.Is(err, fail.Retry) && (f.patient.Load() || tries.Add(1) <= retryLimit)
		},
		Notify: func(err error) { fmt.Fprintln(stderr, "pollux: trying again:", indented(err.Error())) },
	})
	return s, func() { _ = s.Close() }, nil
}

// addPoint adds --at and --no-catalog, of verbs that read a point.
func (f *storeFlags) addPoint(c *cobra.Command, at *string) {
	c.Flags().StringVar(at, "at", "", "recovery point: LSN, time or bookmark (default: the newest)")
	c.Flags().BoolVar(&f.whole, "no-catalog", false, "read the log from its beginning: for when a catalog or a map is damaged or missing")
}

// checkAt refuses an empty --at, which an unset variable may have left.
func checkAt(c *cobra.Command, at string) error {
	if c.Flags().Changed("at") && strings.Trim(at, "- ") == "" {
		return fail.New(fail.Invalid, c.Name(), "--at "+at, "not a point").WithHint("write an LSN, a time (RFC 3339, or -10m for ten minutes ago) or a bookmark's name; leave it out for the newest point")
	}
	return nil
}

// pointOf finds a volume's point.
func pointOf(ctx context.Context, l *twin.Log, name, at string) (twin.Point, error) {
	v, err := l.Volume(name)
	if err != nil {
		return twin.Point{}, err
	}
	return l.Resolve(ctx, v, at, time.Now())
}

// listed is the error of a list of volumes that shows only what lies before damage.
func listed(l *twin.Log, volumes ...*state.Volume) error {
	damage := l.DamageOf(volumes...)
	if damage == nil {
		return nil
	}
	e := &fail.Error{Kind: fail.KindOf(damage), Op: "list", Object: "object log", Err: damage}
	return e.WithHint("what is shown lies before the damage, and can be restored with --at")
}

// damageText is for JSON objects.
func damageText(l *twin.Log, volumes ...*state.Volume) string {
	if damage := l.DamageOf(volumes...); damage != nil {
		return damage.Error()
	}
	return ""
}

func openLog(ctx context.Context, f *storeFlags, progress twin.Progress) (*twin.Log, func(), error) {
	s, done, err := openStore(ctx, f)
	if err != nil {
		return nil, nil, err
	}
	open := twin.Open
	if f.whole {
		open = twin.OpenWhole
	}
	l, err := open(ctx, s, progress)
	if err != nil {
		done()
		if fail.Is(err, fail.Retry) && fail.HintOf(err) == "" {
			err = &fail.Error{Kind: fail.Retry, Op: "open", Object: f.url, Err: err, Hint: "is the store reachable? Check --store, --endpoint and the network"}
		}
		return nil, nil, err
	}
	return l, done, nil
}
