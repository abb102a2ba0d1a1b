package agent

import (
	"context"
	"fmt"
	"net"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/transport"
)

// Taken is a stream whose agent is gone for good: whoever held it before is fenced,
// and every remote target holds it up to Point.
type Taken struct {
	Point change.Point
	Lease change.Lease
	// Back is set where the backings hold an earlier point than that.
	Back *Back
}

// Back is how a stream goes on whose volumes were put back to an earlier point: behind a gap, as
// after an overflow. What its log holds of later writes is put right by copies of these extents.
type Back struct {
	To      change.Point        // behind the gap
	Changed map[uint32][]Extent // by volume number
}

// TakeOver takes the leases of an agent's streams, so that whatever is left of the
// old host can extend none of them, and waits until the remote targets hold all
// that the journal has. told hears how far that is.
func TakeOver(ctx context.Context, raw net.Conn, name string, streams []change.StreamID,
	told func(id change.StreamID, durable, want uint64)) (map[change.StreamID]Taken, error) {
	conn := transport.NewConn(raw, sendTimeout)
	conn.SetIdleLimit(change.BeatLimit)
	defer conn.Close()
	stop := context.AfterFunc(ctx, conn.Close)
	defer stop()
	taken, durable := map[change.StreamID]Taken{}, map[change.StreamID]uint64{}
	var welcome change.Welcome
	send := func(typ change.MessageType, v any) error { return conn.Send(uint16(typ), change.Encode(v)) }
	if err := send(change.MsgHello, change.Hello{Agent: name}); err != nil {
		return nil, err
	}
	done := func() bool {
		for _, id := range streams {
			t, ok := taken[id]
			if !ok || durable[id] < t.Point.LSN {
				return false
			}
		}
		return welcome.Journal != ""
	}
	for !done() {
		typ, b, err := conn.Recv()
		if err != nil {
			if ctx.Err() != nil {
				return nil, fail.Wrap(fail.Retry, "take over", "agent "+name, ctx.Err())
			}
			return nil, err
		}
		switch change.MessageType(typ) {
		case change.MsgWelcome:
			if err = change.Decode(b, &welcome); err == nil {
				err = welcome.Error.Err("greet", "journal")
			}
			for _, id := range streams {
				if err == nil {
					err = send(change.MsgAttach, change.Attach{Stream: id})
				}
			}
		case change.MsgAttached:
			var at change.Attached
			if err = change.Decode(b, &at); err == nil {
				err = at.Error.Err("attach", at.Stream.String())
			}
			taken[at.Stream], durable[at.Stream] = Taken{Point: at.Committed, Lease: at.Lease}, at.Durable
			told(at.Stream, at.Durable, at.Committed.LSN)
		case change.MsgAck:
			var ack change.Ack
			err = change.Decode(b, &ack)
			durable[ack.Stream] = ack.Durable
			told(ack.Stream, ack.Durable, taken[ack.Stream].Point.LSN)
		case change.MsgBeat:
		default:
			err = fail.New(fail.Damaged, "receive from", "journal", fmt.Sprintf("unexpected message %d", typ))
		}
		if err != nil {
			return nil, err
		}
	}
	return taken, nil
}

// Rebuild writes the state of an agent whose host was lost: its streams go on after
// the points that were taken over, and the volumes' backings hold just that. dir
// must have no agent in it.
func Rebuild(fs vfs.FS, dir, name string, streams []StreamConf, volumes []VolumeConf,
	taken map[change.StreamID]Taken) error {
	if fs == nil {
		fs = vfs.Default
	}
	a := &Agent{opts: Options{Name: name, StateDir: dir, FS: fs}}
	if _, err := fs.Stat(a.manifestPath()); err == nil {
		return fail.New(fail.Exists, "rebuild agent in", dir, "there is one").
			WithHint("move the state directory away first")
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return fail.Wrap(fail.Denied, "create", dir, err)
	}
	for _, s := range streams {
		t := taken[s.ID]
		c := checkpoint{Version: metaVersion, Applied: t.Point, Committed: t.Point, Lease: t.Lease,
			Time: clock.Now().UnixNano()}
		if t.Back != nil {
			c.Applied = t.Back.To
			if err := saveMeta(fs, a.overflowPath(s.ID), t.overflow(volumes, c.Time)); err != nil {
				return err
			}
		}
		if err := saveMeta(fs, a.checkpointPath(s.ID), c); err != nil {
			return err
		}
	}
	// The manifest last: without it there is no agent, and all can be repeated.
	m := manifest{Version: metaVersion, Agent: name, Streams: streams, Volumes: volumes}
	return saveMeta(fs, filepath.Join(dir, filepath.Base(a.manifestPath())), m)
}

// overflow is what an overflow would have left of what was put back.
func (t *Taken) overflow(volumes []VolumeConf, now int64) overflowFile {
	maps := map[uint32]*dirtyMap{}
	for i := range volumes {
		v := &volumes[i]
		for _, e := range t.Back.Changed[v.Number] {
			if maps[v.Number] == nil {
				maps[v.Number] = newDirtyMap(v.SizeBytes)
			}
			maps[v.Number].note(v, 1, 0, v.Number, change.Write, e.Off, e.Len)
		}
	}
	return overflowFile{Version: metaVersion, Upto: t.Back.To, Known: []change.Point{t.Point}, Since: now,
		Volumes: packMaps(maps)}
}
