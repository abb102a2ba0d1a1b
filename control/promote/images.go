package promote

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/hostdev"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin/image"
)

// ready are the volumes that the log has whole.
func (r *run) ready() (out []*state.Volume) {
	for _, v := range r.volumesOf() {
		if v.Ready {
			out = append(out, v)
		}
	}
	return out
}

// backingOf is where a volume goes.
func (r *run) backingOf(v *state.Volume) string {
	backings := r.Backings
	if r.intent != nil {
		backings = r.intent.Backings
	}
	if path := backings[v.Name]; path != "" {
		return path
	}
	return r.conf.Standby.PathOf(v.Name)
}

// survey looks at the places of the volumes, and says what would be lost there.
func (r *run) survey(ctx context.Context) error {
	points, err := r.branches(ctx)
	if err != nil {
		return err
	}
	s := r.found.log.State
	r.groups(points, clock.Now())
	for _, v := range r.volumesOf() {
		if !v.Ready {
			r.rep.Skipped = append(r.rep.Skipped, v.Name)
			continue
		}
		if w := r.warmVolume(v, points[v.Stream].LSN); w != nil {
			r.rep.Volumes = append(r.rep.Volumes, *w)
			continue
		}
		t, err := r.placeOf(v)
		if err == nil && r.intent == nil && !r.imageOf(v).Ours {
			t.Interrupted(v, &image.Options{})
			err = t.Refused(r.Overwrite)
		}
		if err != nil {
			return err
		}
		r.rep.Volumes = append(r.rep.Volumes, Volume{Name: v.Name, Group: v.Group, Size: v.SizeBytes,
			LSN: points[v.Stream].LSN, Backing: r.backingOf(v), Was: t.What,
			Hydrates: r.firstWhole(v, points[v.Stream].LSN, t) == "" || r.intent != nil && r.intent.Hydrates[v.Name]})
	}
	for name := range r.Backings {
		if v := s.Volumes[name]; v == nil || v.Removed {
			return fail.New(fail.NotFound, "place", "--backing "+name, "the log has no such volume")
		}
	}
	return nil
}

// placeOf looks at a backing's place. A dry run makes no directory for it.
func (r *run) placeOf(v *state.Volume) (*image.Target, error) {
	path := r.backingOf(v)
	dir := filepath.Dir(path)
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) && !hostdev.BelowDev(path) {
		return image.Absent(path, v.SizeBytes), nil
	}
	return image.Inspect(path, v.SizeBytes)
}

// images brings the volumes to the points that they go on from.
func (r *run) images(ctx context.Context) error {
	if err := r.warmImages(ctx); err != nil {
		return err
	}
	for _, v := range r.ready() {
		path := r.backingOf(v)
		if !hostdev.BelowDev(path) {
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				return fail.Wrap(fail.Denied, "create", filepath.Dir(path), err)
			}
		}
		if err := r.image(ctx, v, path); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) image(ctx context.Context, v *state.Volume, path string) error {
	if r.intent.Images[v.Name] {
		return nil
	}
	p, err := r.resolve(ctx, v)
	if err != nil {
		return err
	}
	if want := r.intent.Points[v.Stream].LSN; p.LSN != want {
		return fail.New(fail.Damaged, "restore", v.Name,
			fmt.Sprintf("the log's point is LSN %d now, and was %d when it was fenced", p.LSN, want))
	}
	if err := r.place(ctx, v, p, path); err != nil {
		return err
	}
	r.hasImage(v.Name)
	return r.saveIntent()
}

// hasImage notes that a volume has its image.
func (r *run) hasImage(volume string) {
	if r.intent.Images == nil {
		r.intent.Images = map[string]bool{}
	}
	r.intent.Images[volume] = true
}
