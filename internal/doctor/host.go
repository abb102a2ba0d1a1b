package doctor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/pki"
	"github.com/pollux-dr/pollux/internal/private"
)

// Host are the settings that the host's checks judge.
type Host struct {
	StateDir       string
	RuntimeDir     string
	MemoryBytes    int64 // of the arena
	WALBudget      int64
	JournalBudget  int64
	MaxConnections int
	Remote         bool     // some target is reached over the network
	Secrets        []string // files of keys and credentials
	Certificates   []string // files of them
	// Site is where the host is, and RequiredSites where its required targets are; nil: not known.
	Site          string
	RequiredSites []string
}

// CheckHost makes all checks of a host.
func CheckHost(ctx context.Context, h *Host, tell func(Result)) []Result {
	checks := []func(context.Context) Result{h.fsync, h.space, h.arena, h.secrets, h.certificates, h.sites}
	return append(run(ctx, "host", tell, checks), CheckLimits(ctx, h, tell)...)
}

// CheckLimits makes the checks of a host that need no configuration.
func CheckLimits(ctx context.Context, h *Host, tell func(Result)) []Result {
	return run(ctx, "host", tell, []func(context.Context) Result{h.files, h.memlock, h.slowStart})
}

// sites looks whether something outlives the loss of this one.
func (h *Host) sites(context.Context) Result {
	const check = "sites"
	if len(h.RequiredSites) == 0 {
		return ok(check, "targets are in the journal's configuration")
	}
	elsewhere := slices.DeleteFunc(slices.Clone(h.RequiredSites), func(s string) bool { return s == h.Site })
	if len(elsewhere) == 0 {
		return warn(check, "add a target at another site, or put the `site` settings right",
			"all required targets are at site %s, like this host: groups are Unprotected", h.Site)
	}
	return ok(check, "a required target is at site %s, this host at %s", elsewhere[0], h.Site)
}

// secrets looks who may read keys and credentials.
func (h *Host) secrets(context.Context) Result {
	const check = "keys and credentials"
	for _, path := range h.Secrets {
		if err := config.Exposed(path); err != nil {
			return warn(check, fail.HintOf(err), "%v", err)
		}
	}
	return ok(check, "%d files, closed to other users", len(h.Secrets))
}

// certificates looks how long they hold.
func (h *Host) certificates(context.Context) Result {
	const check = "certificates"
	const hint = "renew it: files are read anew for each connection"
	worst := ok(check, "%d files, none expires within %d days", len(h.Certificates), int(pki.WarnBefore.Hours()/24))
	for _, path := range h.Certificates {
		until, err := pki.Until(path)
		if err != nil {
			return failed(check, "", "%v", err)
		}
		switch says, urgent := pki.Expiry(until, time.Now()); {
		case urgent:
			return failed(check, hint, "%s: %s", path, says)
		case says != "":
			worst = warn(check, hint, "%s: %s", path, says)
		}
	}
	return worst
}

const (
	fsyncSamples = 200
	fsyncTime    = 3 * time.Second
	slowFsync    = 20 * time.Millisecond
	fastFsync    = 20 * time.Microsecond // no disk is so fast
	appendBytes  = 4096
)

// existing is the nearest directory at or above path that is there already.
func existing(path string) string {
	for {
		if st, err := os.Stat(path); err == nil && st.IsDir() {
			return path
		}
		up := filepath.Dir(path)
		if up == path {
			return path
		}
		path = up
	}
}

// fsync measures what every FLUSH waits for.
func (h *Host) fsync(ctx context.Context) Result {
	const check = "fsync of the state directory"
	dir := existing(h.StateDir)
	all, err := h.measureFsync(ctx, dir)
	if err != nil {
		return failed(check, "the agent must be able to write there; run this as its user", "%v", err)
	}
	p50, p99 := quantile(all, 0.5), quantile(all, 0.99)
	const text = "4 KiB append and fdatasync in %s: p50 %.2f ms, p99 %.2f ms"
	args := []any{dir, ms(p50), ms(p99)}
	switch {
	case p99 > slowFsync:
		return warn(check, "every FLUSH waits for it: use a faster disk, or one that is less busy, for the state "+
			"directory", text, args...).with(latencies(all))
	case p50 < fastFsync:
		return warn(check, "that is faster than disks are: is it tmpfs, or are barriers off? A power cut must not "+
			"lose what was synced", text, args...).with(latencies(all))
	}
	return ok(check, text, args...).with(latencies(all))
}

func (h *Host) measureFsync(ctx context.Context, dir string) ([]time.Duration, error) {
	f, err := os.CreateTemp(dir, ".pollux-doctor-*")
	if err != nil {
		return nil, err
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name())
	}()
	b := random(appendBytes)
	begin := time.Now()
	var all []time.Duration
	for len(all) < fsyncSamples && time.Since(begin) < fsyncTime && ctx.Err() == nil {
		start := time.Now()
		if _, err := f.Write(b); err != nil {
			return nil, err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return nil, err
		}
		all = append(all, time.Since(start))
	}
	return all, ctx.Err()
}

// space compares what is free with what the budgets may still take.
func (h *Host) space(context.Context) Result {
	const check = "space for the WAL"
	dir := existing(h.StateDir)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return failed(check, "", "%v", err)
	}
	free := int64(st.Bavail) * st.Bsize
	used, err := walBytes(h.StateDir)
	if err != nil {
		return failed(check, "run this as the agent's user", "%v", err)
	}
	need := max(0, h.WALBudget+h.JournalBudget-used)
	v := map[string]any{"free_bytes": free, "needed_bytes": need, "used_bytes": used}
	switch {
	case free < min(need, 1<<30):
		return failed(check, "make room, or lower wal.budget and journal.log_budget",
			"%s free in %s; the budgets may take another %s", size(free), dir, size(need)).with(v)
	case free < need:
		return warn(check, "during an outage of the remote site the disk would be full before the budget is: "+
			"writers would block earlier than configured",
			"%s free in %s; the budgets may take another %s", size(free), dir, size(need)).with(v)
	}
	return ok(check, "%s free in %s; the budgets may take another %s", size(free), dir, size(need)).with(v)
}

// walBytes is what WAL files take already.
func walBytes(dir string) (sum int64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".wal") {
			return err
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err == nil {
			sum += st.Blocks * 512
		}
		return nil
	})
	return sum, err
}

// arena: acknowledged writes lie in shared memory, taken as a whole at start.
func (h *Host) arena(context.Context) Result {
	const check = "shared memory for the arena"
	dir := existing(h.RuntimeDir)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return failed(check, "", "%v", err)
	}
	free := int64(st.Bavail) * st.Bsize
	for _, path := range arenas(h.RuntimeDir) { // a running agent's is used again
		if fi, err := os.Stat(path); err == nil {
			free += fi.Size()
		}
	}
	need := h.MemoryBytes + h.MemoryBytes/16 // payload and its index
	v := map[string]any{"free_bytes": free, "needed_bytes": need}
	var foreign error
	if dir == h.RuntimeDir { // else the agent makes it
		foreign = private.CheckDir(dir)
	}
	switch {
	case st.Type != unix.TMPFS_MAGIC:
		return failed(check, "put runtime: on a tmpfs, as below /dev/shm or /run", "%s is not on a tmpfs", dir).with(v)
	case foreign != nil:
		return failed(check, fail.HintOf(foreign), "%v", foreign).with(v)
	case free < need:
		return failed(check, "lower memory:, or enlarge this tmpfs", "%s free in %s, %s needed", size(free), dir,
			size(need)).with(v)
	}
	return ok(check, "%s free in %s, %s needed", size(free), dir, size(need)).with(v)
}

func arenas(dir string) []string {
	found, _ := filepath.Glob(filepath.Join(dir, "arena-*")) // the pattern is good
	return found
}
