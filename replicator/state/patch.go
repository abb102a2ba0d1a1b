package state

import (
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// GroupPatch creates a group, or changes what it names of one that still is as it was when
// the change was thought out: so two who change different things at once lose neither, and
// a member that knows more of a group than the author of the change keeps it.
type GroupPatch struct {
	Name string `json:"name"`
	// Create says that there must be no such group. Else Revision is the one of the group
	// that was looked at.
	Create   bool   `json:"create,omitempty"`
	Revision uint64 `json:"revision,omitempty"`
	// Owner and Created are of a new group alone.
	Owner   string    `json:"owner,omitempty"`
	Created time.Time `json:"created,omitzero"`

	// What is set; nil stays as it is.
	Ack              *string    `json:"ack,omitempty"`
	OnAckLoss        *string    `json:"on_ack_loss,omitempty"`
	Overflow         *string    `json:"overflow,omitempty"`
	PITR             *string    `json:"pitr,omitempty"`
	RPOTargetSeconds *float64   `json:"rpo_target_seconds,omitempty"`
	Paused           *bool      `json:"paused,omitempty"`
	Retention        *Retention `json:"retention,omitempty"` // one that keeps all is none
	Agents           *[]string  `json:"agents,omitempty"`
	Standbys         *[]Standby `json:"standbys,omitempty"`
}

// check looks at the group that a patch of an empty one makes: all values are in it.
func (r *GroupPatch) check() error {
	if !r.Create && (r.Owner != "" || !r.Created.IsZero()) {
		return invalid("the owner of a group that exists, or when it was created")
	}
	if r.Create && r.Revision != 0 {
		return invalid("a new group of revision %d", r.Revision)
	}
	g := Group{Name: r.Name, Owner: r.Owner}
	r.set(&g)
	return g.check()
}

// set sets what the patch names.
func (r *GroupPatch) set(g *Group) {
	assign(&g.Ack, r.Ack)
	assign(&g.OnAckLoss, r.OnAckLoss)
	assign(&g.Overflow, r.Overflow)
	assign(&g.PITR, r.PITR)
	assign(&g.RPOTargetSeconds, r.RPOTargetSeconds)
	assign(&g.Paused, r.Paused)
	assign(&g.Agents, r.Agents)
	assign(&g.Standbys, r.Standbys)
	if r.Retention != nil {
		if g.Retention = r.Retention; r.Retention.Forever() {
			g.Retention = nil
		}
	}
}

func assign[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

func (s *State) patchGroup(r *GroupPatch) (string, error) {
	old := s.Groups[r.Name]
	switch {
	case r.Create && old != nil:
		return "", fail.New(fail.Exists, "create group", r.Name, "it exists").WithHint("pollux group set changes it")
	case !r.Create && old == nil:
		return "", noSuch("group", r.Name)
	case !r.Create && old.Revision != r.Revision:
		return "", fail.New(fail.Retry, "change group", r.Name,
			fmt.Sprintf("somebody else changed it meanwhile: revision %d is %d by now", r.Revision, old.Revision)).
			WithHint("look at it again: pollux group ls")
	}
	g := Group{Name: r.Name, Owner: r.Owner, Created: r.Created}
	if old != nil {
		g = *old
	} else if err := checkRoom("group", g.Name, g.Owner, MaxGroups, s.Groups, ownerOf); err != nil {
		return "", err
	}
	r.set(&g)
	if err := first(g.checkApplied(), g.checkOverflow()); err != nil {
		return "", fail.At("change group", r.Name, err)
	}
	g.Revision++
	s.Groups[r.Name] = &g
	return "group/" + r.Name, nil
}

// GroupCommand is the command that makes g of old, or creates it where old is nil: a patch of
// what differs where the journal's feature level is high enough, else the whole group.
func GroupCommand(level int, old, g *Group) (Kind, any) {
	if level < LevelOf(KindGroupPatch) {
		return KindGroupPut, *g
	}
	r := GroupPatch{Name: g.Name}
	if old == nil {
		r.Create, r.Owner, r.Created = true, g.Owner, g.Created
		old = &Group{}
	} else {
		r.Revision = old.Revision
	}
	changed(&r.Ack, old.Ack, g.Ack)
	changed(&r.OnAckLoss, old.OnAckLoss, g.OnAckLoss)
	changed(&r.Overflow, old.Overflow, g.Overflow)
	changed(&r.PITR, old.PITR, g.PITR)
	changed(&r.RPOTargetSeconds, old.RPOTargetSeconds, g.RPOTargetSeconds)
	changed(&r.Paused, old.Paused, g.Paused)
	changedList(&r.Agents, old.Agents, g.Agents)
	changedList(&r.Standbys, old.Standbys, g.Standbys)
	if !reflect.DeepEqual(old.Retention, g.Retention) {
		if r.Retention = g.Retention; r.Retention == nil {
			r.Retention = &Retention{}
		}
	}
	return KindGroupPatch, r
}

func changed[T comparable](to **T, old, new T) {
	if old != new {
		*to = &new
	}
}

// changedList is changed of a list. One that is empty now is no null, which would say nothing.
func changedList[T comparable](to **[]T, old, new []T) {
	if !slices.Equal(old, new) {
		list := append([]T{}, new...)
		*to = &list
	}
}
