package node

import (
	"path/filepath"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/metafile"
)

// FailoverPath is where control/promote records a failover into a state directory.
func FailoverPath(state string) string { return filepath.Join(state, "failover.json") }

// failoverPending refuses to start over a failover that was cut short: what is there is a half.
func failoverPending(state string) error {
	var in struct {
		FromSite string    `json:"from_site"`
		Done     time.Time `json:"done"`
	}
	path := FailoverPath(state)
	found, err := metafile.Load(vfs.Default, path, "repeat pollux failover with another state directory", &in)
	if err != nil || !found || !in.Done.IsZero() {
		return err
	}
	return fail.New(fail.Refused, "start", "agent", "the failover from "+in.FromSite+" that "+path+
		" records was cut short").WithHint("repeat it: pollux failover --force -c with this configuration")
}
