package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/quantity"
	"github.com/pollux-dr/pollux/replicator/journal/journalnode"
	"github.com/pollux-dr/pollux/replicator/journal/uploader"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
)

const (
	// defaultPatience is for how long a verb tries an operation without progress; the
	// daemon, which has time, never gives up.
	defaultPatience = 5 * time.Minute
	// firstPatience is its patience with a store that has not answered yet, of which the
	// name may be wrong.
	firstPatience = 10 * time.Second
)

// policy is how a verb bears with a store.
func (f *StoreFlags) policy() objstore.Policy {
	again := &retrying{w: Stderr, store: f.URL}
	return objstore.Policy{
		Retryable: func(err error) bool {
			return fail.Is(err, fail.Retry) || (f.Patient.Load() && uploader.Retryable(err))
		},
		Patience: func(reached bool) time.Duration {
			switch {
			case f.Patient.Load():
				return -1
			case f.Patience > 0:
				return time.Duration(f.Patience)
			case reached:
				return defaultPatience
			}
			return firstPatience
		},
		Notify: again.tell,
	}
}

// OpenStore opens a store for a verb.
func OpenStore(ctx context.Context, f *StoreFlags) (objstore.Store, func(), error) {
	if f.URL == "" {
		return nil, nil, fail.New(fail.Invalid, "open object store", "--store", "none is named").
			WithHint("name it: --store file:///directory, or --store s3://bucket/prefix")
	}
	if f.At.note != "" {
		fmt.Fprintln(Stderr, "pollux:", f.At.note)
	}
	for _, named := range []struct{ flag, path string }{{"--credentials-file", f.Options.CredentialsFile},
		{"--ca-file", f.Options.CAFile}} {
		if err := checkReadable(named.flag, named.path); err != nil {
			return nil, nil, err
		}
	}
	warnExposed(f.Options.CredentialsFile)
	f.Options.ReadOnly = f.Options.ReadOnly || !f.Writes // only the daemon and gc write
	s, err := objstore.Open(ctx, f.URL, f.Options)
	if err != nil {
		return nil, nil, err
	}
	s = objstore.WithRetry(s, f.policy())
	return s, func() { _ = s.Close() }, nil
}

// AddAt adds --at.
func (f *StoreFlags) AddAt(c *cobra.Command, at *string, usage string) {
	f.At.At = at
	c.Flags().Var(&f.At, "at", usage)
}

// AddCache adds --log-cache, of verbs that open a log.
func (f *StoreFlags) AddCache(c *cobra.Command) {
	if dir, err := os.UserCacheDir(); err == nil {
		f.Cache = filepath.Join(dir, "pollux")
	}
	c.Flags().StringVar(&f.Cache, "log-cache", f.Cache,
		`directory that keeps what was read of an S3 store's log, at most 256 MiB; "" is none`)
}

// logCache is nil where there is none, or none can be made: it is never needed.
func (f *StoreFlags) logCache() *twin.Cache {
	if f.Cache == "" {
		return nil
	}
	c, err := twin.NewCache(f.Cache, twin.CacheBytes)
	if err != nil {
		return nil
	}
	return c
}

// AddPoint adds --at, --no-catalog and --log-cache, of verbs that read a point.
func (f *StoreFlags) AddPoint(c *cobra.Command, at *string) {
	f.AddCache(c)
	f.AddAt(c, at, "recovery point: LSN, time (2026-11-28 13:32, or -10m) or bookmark (default: the newest)")
	c.Flags().BoolVar(&f.Whole, "no-catalog", false,
		"read the log from its beginning: for when a catalog or a map is damaged or missing")
}

// ErrListed is the error of a list of volumes that shows only what lies before damage.
func ErrListed(l *twin.Log, volumes ...*state.Volume) error {
	damage := l.DamageOf(volumes...)
	if damage == nil {
		return nil
	}
	e := &fail.Error{Kind: fail.KindOf(damage), Op: "list", Object: "object log", Err: damage}
	return e.WithHint("what is shown lies before the damage, and can be restored with --at")
}

// DamageText is for JSON objects.
func DamageText(l *twin.Log, volumes ...*state.Volume) string {
	if damage := l.DamageOf(volumes...); damage != nil {
		return damage.Error()
	}
	return ""
}

// OpenLog opens a store's log. The reading of it, and later on of its older parts, is shown
// until what is returned ends it.
func OpenLog(ctx context.Context, f *StoreFlags) (*twin.Log, func(), error) {
	s, closeStore, err := OpenStore(ctx, f)
	if err != nil {
		return nil, nil, err
	}
	bar := NewReading(Stderr)
	done := func() { bar.End(); closeStore() }
	open := twin.Open
	if f.Whole {
		open = twin.OpenWhole
	}
	l, err := open(ctx, s, &twin.Reading{Progress: bar.Update, Cache: f.logCache()})
	if err != nil {
		done()
		if fail.Is(err, fail.Retry) && fail.HintOf(err) == "" {
			err = &fail.Error{Kind: fail.Retry, Op: "open", Object: f.URL, Err: err,
				Hint: "is the store reachable? Check --store, --endpoint and the network"}
		}
		return nil, nil, err
	}
	return l, done, nil
}

// StoreOf are the flags of a store that a configuration names, to be read.
func StoreOf(t config.Target, patience quantity.Duration) *StoreFlags {
	return &StoreFlags{URL: t.URL, Patience: patience, Options: journalnode.StoreOptions(t)}
}
