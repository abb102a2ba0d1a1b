package state

import (
	"fmt"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Bounds of what the state of one journal holds, far above what is of use: all of it lies in
// memory, in each catalog and with each follower, and anybody with an agent's certificate can
// ask for more. They are part of what every member and every reader of a log agrees on: never
// lower one.
const (
	MaxGroups    = 1 << 14
	MaxStreams   = 1 << 16
	MaxVolumes   = 1 << 16 // removed ones too: their names stay
	MaxBookmarks = 1 << 18
	// agentShare is the part of each that one agent may have, so that it cannot use up the
	// others'.
	agentShare = 4
)

// checkRoom refuses one more of all for an agent; "" is nobody's.
func checkRoom[K comparable, V any](what, name, agent string, most int, all map[K]V, agentOf func(V) string) error {
	if len(all) >= most {
		return noRoom(what, name, fmt.Sprintf("the journal has %d, and no more than that", most))
	}
	share := most / agentShare
	if agent == "" || len(all) < share {
		return nil
	}
	n := 0
	for _, v := range all {
		if agentOf(v) == agent {
			n++
		}
	}
	if n >= share {
		return noRoom(what, name, fmt.Sprintf("agent %s has %d, and no more than that", agent, share))
	}
	return nil
}

func noRoom(what, name, why string) error {
	return fail.New(fail.Refused, "create "+what, name, why).
		WithHint("look for what creates them; a journal of its own has room of its own")
}

func ownerOf(g *Group) string   { return g.Owner }
func agentOf(s *Stream) string  { return s.Agent }
func holderOf(v *Volume) string { return v.Agent }

// setterOf is the agent that a bookmark counts for: the one whose stream it is in, or the
// owner of its group.
func (s *State) setterOf(b *Bookmark) string {
	if st := s.Streams[b.Stream]; st != nil {
		return st.Agent
	}
	if g := s.Groups[b.Group]; g != nil {
		return g.Owner
	}
	return ""
}

func (s *State) bookmarkRoom(b *Bookmark) error {
	return checkRoom("bookmark", b.Group+"/"+b.Name, s.setterOf(b), MaxBookmarks, s.Bookmarks, s.setterOf)
}
