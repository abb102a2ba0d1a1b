package verbs

import (
	"context"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/status"
	"github.com/pollux-dr/pollux/internal/clock"
	"github.com/pollux-dr/pollux/internal/fail"
)

// Common carries out the verbs that every daemon has.
type Common struct {
	Journal Journal
	*Auditor
	// Own fills in what the daemon knows beside the journal.
	Own func(*status.Model)
}

// Model is what the daemon knows now.
func (c Common) Model() *status.Model {
	m := &status.Model{Now: time.Now(), Wall: clock.Now()}
	c.Own(m)
	m.Journal = status.Journal{JournalInfo: c.Journal.Info(), Leads: c.Journal.Leads(), Alone: c.Journal.Alone(),
		Synced: c.Journal.Synced(), Err: c.Journal.Err()}
	c.Journal.View(m.Read)
	for i := range m.Groups {
		for k := range m.Groups[i].Streams {
			s := &m.Groups[i].Streams[k]
			s.Last, s.Durable, s.Known = c.Journal.Progress(s.ID)
		}
	}
	return m
}

// Status reports where everything stands, as this daemon sees it.
func (c Common) Status(context.Context, struct{}) (api.Status, error) {
	return c.Model().Status(), nil
}

// GroupList lists one group, or all.
func (c Common) GroupList(ctx context.Context, r api.List) ([]api.Group, error) {
	if err := c.Journal.AwaitSync(ctx); err != nil {
		return nil, err
	}
	var m status.Model
	c.Journal.View(m.Read)
	out, found := m.GroupList(r.Group)
	if !found {
		return nil, NoSuch("group", r.Group)
	}
	return out, nil
}

// NoSuch is the error of a name that names nothing.
func NoSuch(what, name string) error {
	return fail.New(fail.NotFound, "find", what+" "+name, "no such "+what).WithHint("pollux " + what + " ls lists them")
}
