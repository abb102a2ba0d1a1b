package claim

import (
	"testing"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
)

// TestArriveAtDeadBranch: the fence goes back to where the common history ends, whatever the former
// seat wrote beyond it, under whatever terms.
func TestArriveAtDeadBranch(t *testing.T) {
	old, later := segment.Token{Epoch: 1, Term: 3, Writer: writerID(0, &actor{})},
		segment.Token{Epoch: 1, Term: 4, Writer: writerID(0, &actor{crashes: 1})}
	const branch = 10
	for name, c := range map[string]struct {
		log  []Object
		next uint64
	}{
		"at its end": {[]Object{{segment.Segment, old, 5, 9}, {segment.Segment, old, 10, 12}}, 10},
		"within an object": {[]Object{{segment.Segment, old, 5, 11}, {segment.Segment, old, 12, 40},
			{segment.Fence, later, 41, 40}, {segment.Segment, later, 41, 44}}, 5},
		"behind": {[]Object{{segment.Segment, old, 5, 7}}, 8},
		"a fence on it": {[]Object{{segment.Segment, old, 5, 9}, {segment.Segment, old, 10, 10},
			{segment.Fence, later, 11, 10}, {segment.Segment, later, 11, 11}, {segment.Segment, old, 11, 30}}, 10},
	} {
		k := Arrive(segment.Token{Epoch: 2, Term: 1, Writer: writerID(1, &actor{})})
		if err := k.Catalog(&Catalog{End: Place{Position: 7, Next: 5, Token: old}}); err != nil {
			t.Fatal(err)
		}
		for _, o := range c.log {
			counts, err := k.Found(o, branch)
			if err != nil || counts && o.Last >= branch {
				t.Errorf("%s: %+v counts: %v, %v", name, o, counts, err)
			}
		}
		if err := k.Absent(); err != nil || k.Place().Next != c.next {
			t.Errorf("%s: history goes on at %d, want %d; %v", name, k.Place().Next, c.next, err)
		}
	}
}

// TestArriveNowhere: where garbage was collected on the dead branch beyond the last good catalog,
// there is no place to begin, and a create at a freed position is not tried.
func TestArriveNowhere(t *testing.T) {
	k := Arrive(segment.Token{Epoch: 2})
	if err := k.Catalog(&Catalog{End: Place{Position: 7, Next: 5}, Freed: true}); !fail.Is(err, fail.Refused) {
		t.Errorf("%v", err)
	}
}
