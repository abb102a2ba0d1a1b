package bench

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/nbdclient"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/gc"
)

// RestoreReport is the outcome of Restore. A megabyte is 1e6 bytes of the image.
type RestoreReport struct {
	Header
	RestoreMBPerSecond float64        `json:"restore_mb_per_s"`
	RawGetMBPerSecond  float64        `json:"raw_get_mb_per_s"`
	Ratio              float64        `json:"ratio"` // pair by pair
	ImageBytes         int64          `json:"image_bytes"`
	LogBytes           int64          `json:"log_bytes"` // of the objects fetched
	Objects            int            `json:"objects"`
	Verified           bool           `json:"verified"` // the image equals the volume
	Rounds             []RestoreRound `json:"rounds"`
}

// RestoreRound is one restore and one bare fetch.
type RestoreRound struct {
	RestoreSeconds    float64 `json:"restore_seconds"`
	OpenSeconds       float64 `json:"open_seconds"`  // of it: until the plan was there
	WriteSeconds      float64 `json:"write_seconds"` // of it: fetch, decode, write
	SyncSeconds       float64 `json:"sync_seconds"`  // of it: fsync
	RestoreCPUSeconds float64 `json:"restore_cpu_seconds"`
	RawSeconds        float64 `json:"raw_seconds"`
	RawCPUSeconds     float64 `json:"raw_cpu_seconds"`
	Ratio             float64 `json:"ratio"`
}

// Restore compares a restore with fetching the same live bytes, which lie in the store
// as they are, and writing them to a file. The volume is filled by its initial sync,
// then overwritten at random.
func Restore(ctx context.Context, o Options) (*RestoreReport, error) {
	if err := o.complete(1); err != nil {
		return nil, err
	}
	s, err := newSession(ctx, &o, "restore")
	if err != nil {
		return nil, err
	}
	defer s.close()
	s.head.Settings["rounds"], s.head.Settings["request_rate"] = o.Rounds, o.rate()
	a, err := s.filledLog(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.catalog(ctx, a); err != nil {
		return nil, err
	}
	// From here on this process is `pollux restore`: without the corpus.
	s.data.close()
	rep := &RestoreReport{}
	for i := range o.Rounds {
		r, err := s.restoreRound(ctx, a, rep, i == 0)
		if err != nil {
			return nil, err
		}
		rep.Rounds = append(rep.Rounds, *r)
		o.Say(fmt.Sprintf("round %d of %d: restore %.2f s, bare fetch %.2f s (ratio %.2f)", i+1, o.Rounds,
			r.RestoreSeconds, r.RawSeconds, r.Ratio))
	}
	mb := float64(rep.ImageBytes) / 1e6
	rep.RestoreMBPerSecond = median(column(rep.Rounds, func(r *RestoreRound) float64 {
		return ratio(mb, r.RestoreSeconds)
	}))
	rep.RawGetMBPerSecond = median(column(rep.Rounds, func(r *RestoreRound) float64 { return ratio(mb, r.RawSeconds) }))
	rep.Ratio = median(column(rep.Rounds, func(r *RestoreRound) float64 { return r.Ratio }))
	rep.Header = s.finish()
	return rep, nil
}

// collect lets a retention of a minute pass, twice, so that a catalog lies before it.
func (s *session) collect(ctx context.Context, a *agentProc) error {
	keep := "every_write=1m"
	if err := a.control.Call(ctx, api.VerbGroupPut, api.GroupPut{Name: groupName, Retention: &keep},
		&api.Group{}); err != nil {
		return err
	}
	for range 2 {
		if err := s.catalog(ctx, a); err != nil {
			return err
		}
		s.o.Say("waiting for the retention of a minute to pass")
		select {
		case <-time.After(65 * time.Second):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	st, err := s.open(ctx, a.store, 0)
	if err != nil {
		return err
	}
	for range 2 { // one finds what is dead, the next deletes it
		rep, err := gc.Collect(ctx, st,
			gc.CollectOptions{Options: gc.Options{Dir: s.dir}, SparseBelow: gc.DefaultSparseBelow})
		if err != nil {
			return errors.Join(err, st.Close())
		}
		s.o.Say(fmt.Sprintf("gc: %d bytes of %d objects moved into %d, %d objects deleted", rep.Moved.Bytes,
			rep.Moved.Objects, rep.Packs.Bytes, rep.Deleted.Objects))
	}
	return st.Close()
}

// catalog does what the hourly pollux gc does.
func (s *session) catalog(ctx context.Context, a *agentProc) error {
	st, err := s.open(ctx, a.store, 0)
	if err != nil {
		return err
	}
	begin := time.Now()
	_, err = gc.Catalog(ctx, st, gc.Options{Dir: s.dir})
	s.o.Say(fmt.Sprintf("a catalog was made in %.1f s", time.Since(begin).Seconds()))
	return errors.Join(err, st.Close())
}

// filledLog leaves an object log in the store and a stopped agent.
func (s *session) filledLog(ctx context.Context) (*agentProc, error) {
	s.o.Say("filling a volume")
	a, err := s.startAgent(ctx, "agent", s.o.RequestRate)
	if err != nil {
		return nil, err
	}
	defer a.kill()
	if err := s.overwrite(ctx, a.uri, cmp.Or(s.o.Writes, int64(s.o.Size)/4/blockBytes)); err != nil {
		return nil, err
	}
	if _, err := a.drain(ctx); err != nil {
		return nil, err
	}
	if err := a.idle(ctx); err != nil {
		return nil, err
	}
	if s.o.GC {
		if err := s.collect(ctx, a); err != nil {
			return nil, err
		}
	}
	a.stop(drainTimeout)
	s.settle()
	return a, nil
}

// overwriteCell is the load before a restore and a mount.
var overwriteCell = cell{bytes: blockBytes, depth: 16, flushEvery: 256}

func (s *session) overwrite(ctx context.Context, uri string, writes int64) error {
	conn, err := nbdclient.Dial(ctx, uri, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	g := newGenerator(overwriteCell, int64(s.o.Size), s.data, random(s.o.Seed, "overwrite", 0))
	_, err = runWrites(ctx, conn, g, writes)
	return err
}

// restoreRound runs both sides once, each into a new file.
func (s *session) restoreRound(ctx context.Context, a *agentProc, rep *RestoreReport, verify bool) (
	*RestoreRound, error) {
	r := &RestoreRound{}
	path := filepath.Join(s.dir, "restored.img")
	collect()
	cpu, begin := ownCPUSeconds(), time.Now()
	res, err := s.restore(ctx, a.store, path, r, rep)
	if err != nil {
		return nil, err
	}
	r.RestoreSeconds, r.RestoreCPUSeconds = time.Since(begin).Seconds(), ownCPUSeconds()-cpu
	rep.ImageBytes = res.WrittenBytes
	if verify {
		if err := sameFiles(a.backing, path); err != nil {
			return nil, err
		}
		rep.Verified = true
	}
	if err := s.discard(path); err != nil {
		return nil, err
	}
	objects, err := s.liveObjects(ctx, a)
	if err != nil {
		return nil, err
	}
	path = filepath.Join(s.dir, "fetched.img")
	collect()
	cpu, begin = ownCPUSeconds(), time.Now()
	if err := s.rawGet(ctx, a.store, path, objects, res.WrittenBytes); err != nil {
		return nil, err
	}
	r.RawSeconds, r.RawCPUSeconds = time.Since(begin).Seconds(), ownCPUSeconds()-cpu
	r.Ratio = ratio(r.RawSeconds, r.RestoreSeconds)
	return r, s.discard(path)
}

// restore does what `pollux restore` does, to a new sparse file.
func (s *session) restore(ctx context.Context, url, path string, r *RestoreRound, rep *RestoreReport) (
	res twin.Result, err error) {
	begin := time.Now()
	st, err := s.open(ctx, url, 0)
	if err != nil {
		return res, err
	}
	defer st.Close()
	l, err := twin.Open(ctx, st, nil)
	if err != nil {
		return res, err
	}
	v, err := l.Volume(volumeName)
	if err != nil {
		return res, err
	}
	p, err := l.Resolve(ctx, v, "", time.Now())
	if err != nil {
		return res, err
	}
	plan, err := l.Plan(ctx, p, nil, s.dir)
	if err != nil {
		return res, err
	}
	defer plan.Close()
	rep.Objects, rep.LogBytes = plan.Objects, plan.Bytes
	f, err := createImage(path, v.SizeBytes)
	if err != nil {
		return res, err
	}
	planned := time.Now()
	res, err = plan.Restore(ctx, f, twin.Run{})
	written := time.Now()
	if err == nil {
		err = fail.Wrap(fail.Full, "sync", path, f.Sync())
	}
	r.OpenSeconds, r.WriteSeconds, r.SyncSeconds = planned.Sub(begin).Seconds(), written.Sub(planned).Seconds(),
		time.Since(written).Seconds()
	return res, errors.Join(err, f.Close())
}

// rawObjectBytes is the size of the objects that are fetched bare.
const rawObjectBytes = 8 << 20

// liveObjects puts the volume's bytes into the store as they are, once.
func (s *session) liveObjects(ctx context.Context, a *agentProc) ([]objstore.Info, error) {
	if s.live != nil {
		return s.live, nil
	}
	st, err := s.open(ctx, a.store, 0)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	f, err := os.Open(a.backing)
	if err != nil {
		return nil, fail.Wrap(fail.NotFound, "open", a.backing, err)
	}
	defer f.Close()
	b := make([]byte, rawObjectBytes)
	for off := int64(0); off < int64(s.o.Size); off += rawObjectBytes {
		n, err := f.ReadAt(b[:min(rawObjectBytes, int64(s.o.Size)-off)], off)
		if err != nil {
			return nil, fail.Wrap(fail.Internal, "read", a.backing, err)
		}
		if err := st.Create(ctx, fmt.Sprintf("bare/%020d", off), b[:n]); err != nil {
			return nil, err
		}
		s.live = append(s.live, objstore.Info{Name: fmt.Sprintf("bare/%020d", off), Bytes: int64(n)})
	}
	s.settle()
	return s.live, nil
}

func createImage(path string, size int64) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fail.Wrap(fail.Denied, "create", path, err)
	}
	if err := f.Truncate(size); err != nil {
		_ = f.Close()
		return nil, fail.Wrap(fail.Full, "create", path, err)
	}
	return f, nil
}

// discard removes a file, and lets the filesystem finish with it before the next
// one is timed.
func (s *session) discard(path string) error {
	if err := os.Remove(path); err != nil {
		return fail.Wrap(fail.Denied, "remove", path, err)
	}
	s.settle()
	return nil
}

// sameFiles compares the volume with its restored image.
func sameFiles(want, got string) error {
	a, err := os.Open(want)
	if err != nil {
		return fail.Wrap(fail.NotFound, "open", want, err)
	}
	defer a.Close()
	b, err := os.Open(got)
	if err != nil {
		return fail.Wrap(fail.NotFound, "open", got, err)
	}
	defer b.Close()
	x, y := make([]byte, segmentBytes), make([]byte, segmentBytes)
	for off := int64(0); ; off += segmentBytes {
		n, xerr := io.ReadFull(a, x)
		m, yerr := io.ReadFull(b, y)
		if n != m || !bytes.Equal(x[:n], y[:n]) {
			return fail.New(fail.Damaged, "compare", got,
				fmt.Sprintf("it differs from the volume in the MiB at byte %d", off))
		}
		if xerr != nil || yerr != nil {
			return nil // both have ended: the lengths were equal
		}
	}
}
