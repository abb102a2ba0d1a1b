package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pollux-dr/pollux/cmd/pollux/cli"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/doctor"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/journal/journalnode"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

func newDoctor() *cobra.Command {
	var f cli.DaemonFlags
	var s cli.StoreFlags
	var path string
	c := &cobra.Command{Use: "doctor -c agent.yaml | doctor --store URL", Short: "Check whether host and object stores give what Pollux relies on", Args: cobra.NoArgs,
		Long: `Proves the store's conditional create under a real race, reads back, measures, and
checks this host's disk, memory and limits against the configuration, and the log
in each target against the journal in the state directory. Prints one line a check
and exits 5 if one failed. Test objects go below doctor/ in the store, and are
deleted where the credentials allow it; with object_lock one of them stays until
its date, and in a bucket with a rule of its own all do.`}
	f.AddJSON(c)
	s.Add(c)
	c.Flags().StringVarP(&path, "config", "c", "", "agent's configuration: check the host and every target")
	c.RunE = func(c *cobra.Command, _ []string) error {
		var all []doctor.Result
		var err error
		tell := tellResults(c, f.JSON)
		switch {
		case (path == "") == (s.URL == ""):
			return fail.New(fail.Invalid, "doctor", "", "name either a configuration or a store").WithHint("use -c agent.yaml or --store URL")
		case path != "":
			all, err = checkConfig(c.Context(), path, tell)
		default:
			all = checkStore(c.Context(), s.URL, s.Options, nil, tell)
			all = append(all, doctor.CheckLimits(c.Context(), &doctor.Host{Remote: isRemote(s.URL)}, tell)...)
		}
		if err == nil {
			err = c.Context().Err()
		}
		if err != nil {
			return err
		}
		worst := doctor.Worst(all)
		if f.JSON {
			if err := cli.PrintJSON(c.OutOrStdout(), map[string]any{"worst": worst, "checks": all}); err != nil {
				return err
			}
		}
		if worst == doctor.Fail { // each has said what to do
			return exitCode(fail.ExitCode(fail.New(fail.Refused, "", "", "")))
		}
		return nil
	}
	return c
}

// tellResults prints lines as they come, under a heading for each subject.
func tellResults(c *cobra.Command, json bool) func(doctor.Result) {
	subject := ""
	return func(r doctor.Result) {
		if json {
			return
		}
		if r.Subject != subject {
			subject = r.Subject
			fmt.Fprintln(c.OutOrStdout(), subject)
		}
		fmt.Fprintln(c.OutOrStdout(), "  "+strings.ReplaceAll(r.String(), "\n", "\n  "))
	}
}

func isRemote(url string) bool { return !strings.HasPrefix(url, "file:") }

func checkConfig(ctx context.Context, path string, tell func(doctor.Result)) ([]doctor.Result, error) {
	conf, err := config.LoadAgent(path)
	if err != nil {
		return nil, err
	}
	h := doctor.Host{StateDir: conf.State, RuntimeDir: conf.Runtime, MemoryBytes: int64(conf.Memory), WALBudget: int64(conf.WAL.Budget),
		JournalBudget: int64(conf.Journal.LogBudget), MaxConnections: conf.NBD.MaxConnections,
		Secrets: conf.Secrets(), Certificates: conf.Certificates(), Site: conf.Site}
	for _, t := range conf.Journal.Targets {
		if !t.Optional {
			h.RequiredSites = append(h.RequiredSites, t.Site)
		}
		h.Remote = h.Remote || isRemote(t.URL)
	}
	all := doctor.CheckHost(ctx, &h, tell)
	for _, t := range conf.Journal.Targets {
		all = append(all, checkStore(ctx, t.URL, journalnode.StoreOptions(t), func(ctx context.Context, s objstore.Store) doctor.Result {
			return logOwner(ctx, conf, t.Name, s)
		}, tell)...)
	}
	return all, nil
}

// checkStore checks a store as it is, without retries: they would hide faults
// and falsify what is measured. An owner is who says whose the log is that it holds.
func checkStore(ctx context.Context, url string, opts objstore.Options, owner func(context.Context, objstore.Store) doctor.Result,
	tell func(doctor.Result)) []doctor.Result {
	asked := opts.Lock.For > 0
	locking, err := objstore.Open(ctx, url, opts)
	var s objstore.Store
	if err == nil {
		defer func() { _ = locking.Close() }()
		opts.Lock = objstore.LockRule{} // but one of the test objects can be deleted
		s, err = objstore.Open(ctx, url, opts)
	}
	if err != nil {
		r := doctor.Result{Level: doctor.Fail, Subject: url, Check: "open the store", Text: err.Error(), Hint: fail.HintOf(err)}
		tell(r)
		return []doctor.Result{r}
	}
	defer func() { _ = s.Close() }()
	all := doctor.CheckStore(ctx, doctorStore{s, locking, asked}, tell)
	if owner != nil && ctx.Err() == nil {
		r := owner(ctx, s)
		tell(r)
		all = append(all, r)
	}
	return all
}

// doctorStore gives package doctor, which knows nothing of replicator, a store.
type doctorStore struct {
	objstore.Store
	locking objstore.Store // with the target's object_lock
	asked   bool           // it has one
}

func (d doctorStore) Keep(ctx context.Context, name string, body []byte) (string, time.Duration, error) {
	if err := d.locking.Create(ctx, name, body); err != nil {
		return "", 0, err
	}
	l, err := d.locking.Lock(ctx, name)
	if err == nil && l.Mode != "" {
		return l.Mode, l.For(), nil
	}
	if d.asked { // what the store took, these credentials may not see
		return "unseen", 0, err
	}
	rule, err := d.LockRule(ctx)
	if fail.Is(err, fail.Denied) {
		return "unseen", 0, nil
	}
	return rule.Mode, rule.For, err
}

func (d doctorStore) List(ctx context.Context, prefix string, fn func(doctor.Info) error) error {
	return d.Store.List(ctx, prefix, "", func(i objstore.Info) error {
		return fn(doctor.Info{Name: i.Name, Bytes: i.Bytes, Modified: i.Modified})
	})
}
