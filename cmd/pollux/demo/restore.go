package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
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
	if err := d.verb(ctx, &n, d.storeArgs("restore", volume, "-o", newest)...); err != nil {
		return err
	}
	d.rep.RTOSeconds = time.Since(lost).Seconds()
	d.rep.RestoredLSN = n.LSN
	if n.Seconds > 0 {
		d.rep.RestoreMBps = float64(n.WrittenBytes) / 1e6 / n.Seconds
	}
	if err := d.verb(ctx, &b, d.storeArgs("restore", volume, "--at", bookmark, "-o", half)...); err != nil {
		return err
	}
	var ls struct {
		Bytes int64 `json:"log_bytes"`
	}
	if err := d.verb(ctx, &ls, d.storeArgs("volume", "ls")...); err != nil {
		return err
	}
	d.rep.BytesStored = ls.Bytes
	d.rep.BytesShipped = max(d.rep.BytesShipped, 0)
	d.rep.RPOWrites, d.rep.RPOSeconds = d.model.loss(n.LSN, d.rep.LastAckedLSN)

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
		if err := d.model.compare(c.path, c.lsn, filepath.Join(d.Dir, "model.img")); err != nil {
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

func (d *run) storeArgs(args ...string) []string {
	return append(append(args, "--store", d.Store), d.StoreArgs...)
}

// verb runs one of pollux's own verbs and decodes its JSON.
func (d *run) verb(ctx context.Context, into any, args ...string) error {
	var out, errs bytes.Buffer
	cmd := command(ctx, d.Binary, append(args, "--json")...)
	cmd.Env = append(os.Environ(), "POLLUX_SOCKET="+d.socket())
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return fail.New(fail.Internal, "run", "pollux "+args[0],
			fmt.Sprintf("%v: %s", err, bytes.TrimSpace(errs.Bytes())))
	}
	if into == nil {
		return nil
	}
	return fail.Wrap(fail.Internal, "decode output of", "pollux "+args[0], json.Unmarshal(out.Bytes(), into))
}

// compare replays the model up to lsn into a file and compares it with an image.
func (m *model) compare(image string, lsn uint64, scratch string) error {
	want, err := os.Create(scratch)
	if err != nil {
		return err
	}
	defer os.Remove(scratch)
	defer want.Close()
	if err := want.Truncate(m.size); err != nil {
		return err
	}
	if err := m.replay(want, lsn); err != nil {
		return err
	}
	got, err := os.Open(image)
	if err != nil {
		return err
	}
	defer got.Close()
	a, b := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); off < m.size; off += int64(len(a)) {
		n := int(min(int64(len(a)), m.size-off))
		if _, err := io.ReadFull(io.NewSectionReader(want, off, int64(n)), a[:n]); err != nil {
			return err
		}
		if _, err := io.ReadFull(io.NewSectionReader(got, off, int64(n)), b[:n]); err != nil {
			return fmt.Errorf("%s at byte %d: %w", filepath.Base(image), off, err)
		}
		if !bytes.Equal(a[:n], b[:n]) {
			i := 0
			for a[i] == b[i] {
				i++
			}
			return fmt.Errorf("%s differs from the model at LSN %d in byte %d", filepath.Base(image), lsn, off+int64(i))
		}
	}
	return nil
}
