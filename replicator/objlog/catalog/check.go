package catalog

import (
	"fmt"
	"strings"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/extent"
	"github.com/pollux-dr/pollux/replicator/objlog/pack"
	"github.com/pollux-dr/pollux/replicator/state"
)

// check refuses what readers rely on and is not so. Checksums say nothing about who
// wrote a catalog.
func (c *Catalog) check() error {
	err := c.checkMarks()
	for id, s := range c.Streams {
		if err == nil && s == nil {
			err = fmt.Errorf("stream %s is empty", id)
		}
		if err == nil {
			err = s.check()
		}
		if err != nil {
			break
		}
	}
	if err == nil {
		err = c.checkPacks()
	}
	return fail.Wrap(fail.Damaged, "decode catalog", fmt.Sprint(c.Number), err)
}

func (c *Catalog) checkMarks() error {
	if len(c.ReadPoints) == 0 {
		return fmt.Errorf("no marks")
	}
	last := map[change.StreamID]uint64{}
	for i := range c.ReadPoints {
		b := &c.ReadPoints[i]
		if b.Position == 0 || b.Position > objlog.MaxNumber {
			return fmt.Errorf("mark %d at position %d", i, b.Position)
		}
		if i > 0 && (b.Position <= c.ReadPoints[i-1].Position || b.Index < c.ReadPoints[i-1].Index) {
			return fmt.Errorf("mark %d at position %d, index %d follows one at %d, %d",
				i, b.Position, b.Index, c.ReadPoints[i-1].Position, c.ReadPoints[i-1].Index)
		}
		for id, at := range b.Streams {
			if c.Streams[id] == nil {
				return fmt.Errorf("mark %d names stream %s, of which nothing is known", i, id)
			}
			if at.LSN < last[id] {
				return fmt.Errorf("mark %d: stream %s goes back from LSN %d to %d", i, id, last[id], at.LSN)
			}
			last[id] = at.LSN
		}
	}
	for i := range c.Fences {
		if f := &c.Fences[i]; f.From > f.Position || f.Position > objlog.MaxNumber {
			return fmt.Errorf("a fence at position %d from %d on", f.Position, f.From)
		}
	}
	return nil
}

func (s *Stream) check() error {
	for i := range s.Retained {
		k := &s.Retained[i]
		if i > 0 && k.LSN <= s.Retained[i-1].LSN {
			return fmt.Errorf("retained LSN %d follows %d", k.LSN, s.Retained[i-1].LSN)
		}
		if k.Bookmark == "" {
			continue
		}
		if err := state.CheckName("bookmark", k.Bookmark); err != nil {
			return err
		}
	}
	for number, v := range s.Volumes {
		if v == nil {
			return fmt.Errorf("volume %d is empty", number)
		}
		last := uint64(0)
		for i := range v.Layers {
			l := &v.Layers[i]
			if l.To <= last || l.From >= l.To {
				return fmt.Errorf("volume %d: a layer from LSN %d to %d follows %d", number, l.From, l.To, last)
			}
			last = l.To
			if err := checkObjects(l.Objects); err != nil {
				return fmt.Errorf("volume %d, layer up to LSN %d: %w", number, l.To, err)
			}
		}
	}
	return nil
}

// mapChars are those of a map's name.
const mapChars = "0123456789abcdefghijklmnopqrstuvwxyz-/"

// checkObjects refuses objects that no map could be, and an order in which no leaf
// would be found.
func checkObjects(objects []extent.MapObject) error {
	for i := range objects {
		p := &objects[i]
		rest, ok := strings.CutPrefix(p.Name, "map/")
		if !ok || rest == "" || strings.Trim(rest, mapChars) != "" || strings.Contains(rest, "//") {
			return fmt.Errorf("%q is no map's name", p.Name)
		}
		if p.Bytes < 0 || p.Bytes > extent.MaxMapBytes || p.Extents < 0 || p.LiveBytes < 0 {
			return fmt.Errorf("map %s of %d bytes, %d extents", p.Name, p.Bytes, p.Extents)
		}
		if p.FirstLeaf < 0 || p.LastLeaf < p.FirstLeaf || (i > 0 && p.FirstLeaf <= objects[i-1].LastLeaf) {
			return fmt.Errorf("map %s has leaves %d to %d", p.Name, p.FirstLeaf, p.LastLeaf)
		}
	}
	return nil
}

func (c *Catalog) checkPacks() error {
	for i := range c.Packs {
		if p := &c.Packs[i]; p.Number > objlog.MaxNumber || p.Bytes < 0 || p.Bytes > pack.MaxBytes {
			return fmt.Errorf("pack %d of %d bytes", p.Number, p.Bytes)
		}
	}
	return nil
}
