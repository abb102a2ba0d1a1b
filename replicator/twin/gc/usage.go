package gc

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/catalog"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
)

// Usage is what a log takes of its store.
type Usage struct {
	Objects int   `json:"objects"`
	Bytes   int64 `json:"bytes"`
	// LiveBytes are of the volumes' newest points, HistoryBytes of the other points that
	// are kept, MapBytes of catalogs and maps, GarbageBytes of what nothing needs: they
	// make up Bytes. Of an object, what is live counts by its part of each block.
	LiveBytes    int64 `json:"live_bytes"`
	HistoryBytes int64 `json:"history_bytes"`
	MapBytes     int64 `json:"map_bytes"`
	GarbageBytes int64 `json:"garbage_bytes"`
	// Created counts the objects created in the last Hours, by kind: log, map, catalog, pack.
	Created map[string]int `json:"created"`
	Hours   float64        `json:"hours"`
}

// PerDay extrapolates what was created to a day.
func (u *Usage) PerDay(kind string) float64 {
	return float64(u.Created[kind]) * 24 / max(u.Hours, 0.1)
}

// Measure finds out what a log takes.
func Measure(ctx context.Context, s objstore.Store, o Options) (*Usage, error) {
	o = o.complete()
	l, err := twin.Open(ctx, s, nil)
	if err != nil {
		return nil, err
	}
	u := &Usage{Created: map[string]int{}}
	sizes, err := u.list(ctx, s, o.Now())
	if err != nil {
		return nil, err
	}
	live, err := liveBytes(ctx, l, o)
	if err != nil {
		return nil, err
	}
	needed, floor := map[string]int64{}, uint64(1)
	c := l.Catalog
	if c == nil {
		c = &catalog.Catalog{ReadPoints: []catalog.ReadPoint{{Position: 1}}}
	}
	floor = c.ReadPoints[0].Position
	w := &writer{o: o, store: s, log: l, run: uuid.NewString()[:8]}
	r, err := w.findRefs(ctx, c)
	if err != nil {
		return nil, err
	}
	for o, n := range r.live {
		needed[o.Name()] = int64(n.stored)
	}
	for name, size := range sizes {
		u.Objects, u.Bytes = u.Objects+1, u.Bytes+size
		kind, _, _ := strings.Cut(name, "/")
		_, dead := c.Dead[name]
		switch pos, isLog := objlog.PositionOf(name); {
		case kind == "map" || kind == "catalog":
			if dead {
				u.GarbageBytes += size
			} else {
				u.MapBytes += size
			}
		case isLog && (pos >= floor || protected(c, pos)):
			n := min(live[name], size)
			u.LiveBytes, u.HistoryBytes = u.LiveBytes+n, u.HistoryBytes+size-n
		default:
			keep := min(max(needed[name], live[name]), size)
			n := min(live[name], keep)
			u.LiveBytes, u.HistoryBytes, u.GarbageBytes = u.LiveBytes+n, u.HistoryBytes+keep-n, u.GarbageBytes+size-keep
		}
	}
	return u, r.by.Close()
}

// list sums up what there is, and what is new.
func (u *Usage) list(ctx context.Context, s objstore.Store, now time.Time) (map[string]int64, error) {
	sizes, oldest := map[string]int64{}, now
	for _, kind := range []string{"log", "map", "catalog", "pack"} {
		err := s.List(ctx, kind+"/", "", func(i objstore.Info) error {
			sizes[i.Name] = i.Bytes
			if age := now.Sub(i.Modified); age < 24*time.Hour {
				u.Created[kind]++
			}
			if i.Modified.Before(oldest) {
				oldest = i.Modified
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	u.Hours = min(24, now.Sub(oldest).Hours())
	return sizes, nil
}

// liveBytes sums, by object, the stored bytes that the newest points need.
func liveBytes(ctx context.Context, l *twin.Log, o Options) (map[string]int64, error) {
	out := map[string]float64{}
	for _, v := range state.Sorted(l.State.Volumes, func(v *state.Volume) string { return v.Name }) {
		if v.Removed {
			continue
		}
		p, err := l.Resolve(ctx, v, "", o.Now())
		if fail.Is(err, fail.Refused) || fail.Is(err, fail.NotFound) {
			continue // nothing of it is complete yet
		}
		if err != nil {
			return nil, err
		}
		image, err := l.Image(ctx, p, o.Dir)
		if err != nil {
			return nil, err
		}
		err = image.Map.Each(ctx, false, func(_ int64, extents []extent.Extent) error {
			for i := range extents {
				b := &extents[i].Block
				out[b.Object.Name()] += float64(extents[i].Len) / float64(b.PlainBytes) * float64(b.StoredBytes)
			}
			return nil
		})
		if err = errors.Join(err, image.Close()); err != nil {
			return nil, err
		}
	}
	sums := make(map[string]int64, len(out))
	for name, n := range out {
		sums[name] = int64(n)
	}
	return sums, nil
}
