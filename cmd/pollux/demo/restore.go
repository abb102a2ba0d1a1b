package demo

import (
	"context"
	"fmt"
	"path/filepath"
	"time"
)

// restored is the part of `pollux restore --json` that the demo looks at.
type restored struct {
	LSN          uint64  `json:"lsn"`
	WrittenBytes int64   `json:"written_bytes"`
	Seconds      float64 `json:"seconds"`
}

// restore fetches both images and compares them with the model.
func (d *run) restore(ctx context.Context, lost time.Time) error {
	newest, half := filepath.Join(d.Dir, "newest.img"), filepath.Join(d.Dir, "bookmark.img")
	var n, b restored
	if err := d.host.StoreVerb(ctx, &n, "restore", volume, "-o", newest); err != nil {
		return err
	}
	d.rep.RTOSeconds = time.Since(lost).Seconds()
	d.rep.RestoredLSN = n.LSN
	if n.Seconds > 0 {
		d.rep.RestoreMBps = float64(n.WrittenBytes) / 1e6 / n.Seconds
	}
	if err := d.host.StoreVerb(ctx, &b, "restore", volume, "--at", bookmark, "-o", half); err != nil {
		return err
	}
	var ls struct {
		Bytes int64 `json:"log_bytes"`
	}
	if err := d.host.StoreVerb(ctx, &ls, "volume", "ls"); err != nil {
		return err
	}
	d.rep.BytesStored = ls.Bytes
	d.rep.BytesShipped = max(d.rep.BytesShipped, 0)
	d.rep.RPOWrites, d.rep.RPOSeconds = d.model.Loss(n.LSN, d.ended)

	d.say("5. Comparing with the model, byte by byte.")
	if b.LSN != d.rep.BookmarkLSN {
		return d.failed("the bookmark was restored at LSN %d, it was set at %d", b.LSN, d.rep.BookmarkLSN)
	}
	if n.LSN < d.rep.DurableLSN {
		return d.failed("LSN %d was reported durable, but the newest recovery point is LSN %d", d.rep.DurableLSN, n.LSN)
	}
	for _, c := range []struct {
		lsn  uint64
		path string
	}{{b.LSN, half}, {n.LSN, newest}} {
		if err := d.model.CompareFile(ctx, c.path, c.lsn); err != nil {
			return d.failed("%v", err)
		}
	}
	d.rep.Verified = true
	return nil
}

// failed records what does not hold; the report is still worth printing.
func (d *run) failed(format string, args ...any) error {
	d.rep.FailureReason = fmt.Sprintf(format, args...)
	return nil
}
