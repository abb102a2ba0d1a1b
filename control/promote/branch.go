package promote

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strconv"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin"
	"github.com/pollux-dr/pollux/replicator/twin/extentmap"
)

// branches finds the point that each stream's volumes go on from.
func (r *run) branches(ctx context.Context) (map[change.StreamID]branch, error) {
	heads := r.found.points()
	out := map[change.StreamID]branch{}
	for _, st := range r.streams() {
		b := branch{Head: heads[st.ID], LSN: heads[st.ID].LSN}
		for _, v := range r.volumesOf() {
			if v.Stream != st.ID || !v.Ready {
				continue
			}
			p, err := r.resolve(ctx, v)
			if err != nil {
				return nil, err
			}
			b.LSN, b.Time, b.Note = p.LSN, p.Time, p.Note
			break // the others of the stream are at the same LSN
		}
		if b.back() {
			b.To = change.Point{LSN: b.Head.LSN + 1, Hash: gapHash(b.Head, b.LSN)}
		}
		out[st.ID] = b
	}
	return out, nil
}

func (r *run) resolve(ctx context.Context, v *state.Volume) (twin.Point, error) {
	at, over := r.At, r.HandOver
	if r.intent != nil {
		at, over = r.intent.At, r.intent.HandOver
	}
	if over.goesBack() {
		if lsn, named := over.Back[v.Stream]; named {
			at = strconv.FormatUint(lsn, 10)
		}
	}
	return r.found.log.Resolve(ctx, v, at, clock.Now())
}

// gapHash is the hash behind a gap: no frame ends there, so it only has to be no other's.
func gapHash(head change.Point, lsn uint64) (h change.Hash) {
	sum := sha256.Sum256(fmt.Appendf(nil, "goes back from %d %x to %d", head.LSN, head.Hash, lsn))
	copy(h[:], sum[:])
	return h
}

// changed are the extents of each volume that the log wrote behind the point that the stream goes
// back to: they are put into the log again, as they were then.
func (r *run) changed(ctx context.Context, id change.StreamID, b *branch) (map[uint32][]agent.Extent, error) {
	out := map[uint32][]agent.Extent{}
	sorter, err := r.found.log.Changed(ctx, id, b.LSN, b.Head.LSN, "")
	if fail.Is(err, fail.NotFound) { // not kept any more, one by one: then all of it
		for _, v := range r.volumesOf() {
			if v.Stream == id {
				out[v.Number] = []agent.Extent{{Off: 0, Len: v.SizeBytes}}
			}
		}
		r.Tell(fmt.Sprintf("what was written behind LSN %d is not kept one by one: all of its volumes is put into "+
			"the log again", b.LSN))
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	defer sorter.Close()
	for _, v := range r.volumesOf() {
		if v.Stream != id {
			continue
		}
		m := extentmap.Map{Volume: v.Number, SizeBytes: v.SizeBytes, Recent: sorter}
		err := m.Each(ctx, true, func(_ int64, extents []extent.Extent) error {
			for i := range extents {
				out[v.Number] = append(out[v.Number], agent.Extent{Off: extents[i].Off, Len: extents[i].Len})
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// agentState is what the agent here starts with.
func (r *run) agentState() (streams []agent.StreamConf, volumes []agent.VolumeConf,
	taken map[change.StreamID]agent.Taken, err error) {
	taken = map[change.StreamID]agent.Taken{}
	for _, st := range r.streams() {
		b := r.intent.Points[st.ID]
		g := r.found.log.State.Groups[st.Group]
		ack, _ := r.ackHere(g)
		streams = append(streams, agent.StreamConf{ID: st.ID, Number: st.Number, Group: st.Group, Paused: g.Paused,
			Policy: agent.Policy{Ack: ack, OnLoss: g.OnAckLoss, Overflow: g.Overflow}})
		t := agent.Taken{Point: b.Head}
		if b.back() {
			t.Back = &agent.Back{To: b.To}
			if t.Back.Changed, err = r.changed(context.Background(), st.ID, &b); err != nil {
				return nil, nil, nil, err
			}
		}
		taken[st.ID] = t
	}
	for _, v := range r.ready() {
		volumes = append(volumes, agent.VolumeConf{Name: v.Name, Number: v.Number, Group: v.Group, Stream: v.Stream,
			SizeBytes: v.SizeBytes, Backing: r.backingOf(v), Ready: true, ReadyLSN: v.FirstLSN})
	}
	return streams, volumes, taken, nil
}
