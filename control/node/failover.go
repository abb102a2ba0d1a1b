package node

import (
	"context"
	"path/filepath"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/metafile"
	"github.com/pollux-dr/pollux/replicator/state"
)

// FailoverPath is where control/promote records a failover into a state directory.
func FailoverPath(state string) string { return filepath.Join(state, "failover.json") }

// takenOver is what an agent needs to know of the failover that has made its state.
type takenOver struct {
	FromSite string    `json:"from_site"`
	Done     time.Time `json:"done"`
	// Keeps are bookmarks that keep what backings are filled with: group/name to LSN.
	Keeps map[string]uint64 `json:"keeps"`
}

func loadTakenOver(dir string) (in takenOver, found bool, err error) {
	found, err = metafile.Load(vfs.Default, FailoverPath(dir), "repeat pollux failover with another state directory",
		&in)
	return in, found, err
}

// failoverPending refuses to start over a failover that was cut short: what is there is a half.
func failoverPending(dir string) error {
	in, found, err := loadTakenOver(dir)
	if err != nil || !found || !in.Done.IsZero() {
		return err
	}
	return fail.New(fail.Refused, "start", "agent", "the failover from "+in.FromSite+" that "+FailoverPath(dir)+
		" records was cut short").WithHint("repeat it: pollux failover --force -c with this configuration")
}

// keepCheck is how often it is looked whether a point is still to be kept.
const keepCheck = 5 * time.Second

// releasePoints removes the bookmarks that keep the points which a failover's backings are filled
// with, each as soon as no volume of its group needs it, and returns when there is none.
func (d *Daemon) releasePoints(ctx context.Context) {
	if d.hooks.fs != vfs.Default {
		return
	}
	in, _, err := loadTakenOver(d.conf.State)
	if err != nil {
		d.log.Error("which bookmarks a failover has set is not known: pollux bookmark ls shows them", "err", err)
		return
	}
	for ctx.Err() == nil {
		left := 0
		for key, lsn := range in.Keeps {
			gone, err := d.releasePoint(key, lsn)
			if err != nil {
				d.log.Warn("a bookmark of the failover is not removed yet", "bookmark", key, "err", err)
			}
			if !gone {
				left++
			}
		}
		if left == 0 {
			return
		}
		select {
		case <-ctx.Done():
		case <-d.hydrating.ended:
		case <-time.After(keepCheck):
		}
	}
}

// releasePoint removes one of those bookmarks if it can. It is gone where it is not there any more.
func (d *Daemon) releasePoint(key string, lsn uint64) (gone bool, err error) {
	group, name, _ := strings.Cut(key, "/")
	backings, known := []string{}, false
	d.journal.View(func(s *state.State) {
		known = s.Groups[group] != nil
		b := s.Bookmarks[key]
		gone = known && (b == nil || b.LSN != lsn)
		for _, v := range s.Volumes {
			if v.Group == group && v.Agent == d.conf.Name && !v.Removed {
				backings = append(backings, v.Backing)
			}
		}
	})
	if gone || !known {
		return gone, nil
	}
	for _, path := range backings {
		p := HydratingPlace(d.conf, path)
		if pending, err := p.Pending(); pending || err != nil {
			return false, nil // the volume's own state says what is wrong
		}
	}
	if _, err := d.journal.Propose(state.KindBookmarkRemove,
		state.BookmarkRemove{Name: name, Group: group}); err != nil {
		return fail.Is(err, fail.NotFound), err
	}
	d.log.Info("all of the group's volumes are complete: the failover's bookmark is removed", "group", group,
		"bookmark", name)
	return true, nil
}
