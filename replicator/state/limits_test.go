package state

import (
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// TestRoom: one agent may have a quarter of what the state holds, all together may have all,
// and what is there can be changed whatever there is.
func TestRoom(t *testing.T) {
	id := func(i int) change.StreamID { return change.StreamID(uuid.NewSHA1(testStream, fmt.Append(nil, i))) }
	for _, c := range []struct {
		kind Kind
		most int
		put  func(s *State, i int, agent string)
		more func(name, agent string) any
	}{
		{KindGroupPut, MaxGroups, func(s *State, i int, agent string) {
			name := fmt.Sprint("g", i)
			s.Groups[name] = &Group{Name: name, Owner: agent}
		}, func(name, agent string) any { return Group{Name: name, Owner: agent} }},
		{KindStreamCreate, MaxStreams, func(s *State, i int, agent string) {
			s.Streams[id(i)] = &Stream{ID: id(i), Group: fmt.Sprint("g", i), Agent: agent}
		}, func(name, agent string) any {
			return Stream{ID: change.StreamID(uuid.NewSHA1(testStream, []byte(name))), Group: "g", Agent: agent}
		}},
		{KindVolumeCreate, MaxVolumes, func(s *State, i int, agent string) {
			name := fmt.Sprint("v", i)
			s.Volumes[name] = &Volume{Name: name, Agent: agent, Backing: name, Removed: i%2 > 0}
		}, func(name, agent string) any {
			return Volume{Name: name, Group: "g", Stream: testStream, Agent: agent,
				SizeBytes: 4096, Backing: "/" + name}
		}},
		{KindBookmarkAdd, MaxBookmarks, func(s *State, i int, agent string) {
			s.Streams[id(0)], s.Streams[id(1)] = &Stream{ID: id(0), Agent: "many"}, &Stream{ID: id(1), Agent: "other"}
			b := &Bookmark{Name: fmt.Sprint("b", i), Group: "g", Stream: id(0)}
			if agent != "many" {
				b.Stream = id(1)
			}
			s.Bookmarks["g/"+b.Name] = b
		}, func(name, agent string) any {
			b := Bookmark{Name: name, Group: "g", Stream: id(0), LSN: 99}
			if agent != "many" {
				b.Stream = id(1)
			}
			return b
		}},
	} {
		s := New()
		must(t, s, KindGroupPut, Group{Name: "g", Ack: "local"})
		s.Streams[testStream] = &Stream{ID: testStream, Group: "g"}
		i := 0
		for ; i < c.most/agentShare; i++ {
			c.put(s, i, "many")
		}
		if _, err := apply(s, c.kind, c.more("x", "many")); !fail.Is(err, fail.Refused) || fail.HintOf(err) == "" {
			t.Errorf("%v: an agent that has its share: %v", c.kind, err)
		}
		must(t, s, c.kind, c.more("y", "other"))
		for ; i < c.most; i++ {
			c.put(s, i, fmt.Sprint("other", i))
		}
		if _, err := apply(s, c.kind, c.more("z", "third")); !fail.Is(err, fail.Refused) {
			t.Errorf("%v: one more than all: %v", c.kind, err)
		}
		must(t, s, KindGroupPut, Group{Name: "g", Ack: "journal"})
		if c.kind != KindBookmarkAdd {
			continue
		}
		if _, err := apply(s, KindMarkBegin, MarkBegin{ID: uuid.New(), Name: "m", Group: "g",
			LimitSeconds: 1}); !fail.Is(err, fail.Refused) || fail.HintOf(err) == "" {
			t.Errorf("a mark whose bookmark finds no room holds writers: %v", err)
		}
	}
}
