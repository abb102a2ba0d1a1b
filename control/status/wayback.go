package status

import (
	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/replicator/state"
)

// wayBack is a hand-over that is not decided, with what was written since, by group.
func (m *Model) wayBack(w *state.WayBack) *api.WayBack {
	out := &api.WayBack{Site: w.To, Host: w.Host, Epoch: w.Epoch, Since: w.Time, Bookmark: w.Bookmark,
		Groups: []api.WayBackOfGroup{}}
	for i := range m.Groups {
		own := m.own(m.Groups[i].Name)
		for j := range m.Groups[i].Streams {
			s := &m.Groups[i].Streams[j]
			lsn, named := w.Points[s.ID]
			if !named {
				continue
			}
			g := api.WayBackOfGroup{Group: m.Groups[i].Name, LSN: lsn}
			if last := m.stream(s, own).LastLSN; last != nil && *last > lsn {
				g.Writes = *last - lsn
			}
			out.Groups = append(out.Groups, g)
		}
	}
	return out
}
