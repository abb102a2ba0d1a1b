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
		"at its end": {[]Object{seg(old, 5, 9), seg(old, 10, 12)}, 10},
		"within an object that has folds": {[]Object{seg(old, 5, 11), seg(old, 12, 40), fence(later, 41),
			seg(later, 41, 44)}, 5},
		"within an object": {[]Object{cuts(seg(old, 5, 11)), cuts(seg(old, 12, 40)), fence(later, 41),
			cuts(seg(later, 41, 44))}, 10},
		"within an object, a fence behind it": {[]Object{cuts(seg(old, 5, 11)), fence(later, 12),
			cuts(seg(later, 12, 12))}, 10},
		"within an object, where another one has gone back": {[]Object{cuts(seg(old, 5, 11)),
			fence(segment.Token{Epoch: 1, Term: 9}, 10)}, 10},
		"within an object that was left out": {[]Object{cuts(seg(old, 5, 11)), fence(later, 5)}, 5},
		"behind":                             {[]Object{seg(old, 5, 7)}, 8},
		"a fence on it": {[]Object{seg(old, 5, 9), seg(old, 10, 10), fence(later, 11), seg(later, 11, 11),
			seg(old, 11, 30)}, 10},
	} {
		k := Arrive(segment.Token{Epoch: 2, Term: 1, Writer: writerID(1, &actor{})})
		if err := k.Catalog(&Catalog{End: Place{Position: 7, Next: 5, Token: old}}); err != nil {
			t.Fatal(err)
		}
		for _, o := range c.log {
			counts, err := k.Found(o, branch)
			if err != nil || counts && o.Last >= branch && !(o.Cuts && o.First < branch) {
				t.Errorf("%s: %+v counts: %v, %v", name, o, counts, err)
			}
		}
		if err := k.Absent(); err != nil || k.Place().Next != c.next {
			t.Errorf("%s: history goes on at %d, want %d; %v", name, k.Place().Next, c.next, err)
		}
	}
}

func seg(t segment.Token, first, last uint64) Object {
	return Object{Type: segment.Segment, Token: t, First: first, Last: last}
}

func fence(t segment.Token, first uint64) Object {
	return Object{Type: segment.Fence, Token: t, First: first, Last: first - 1}
}

func cuts(o Object) Object { o.Cuts = true; return o }

// TestArriveNowhere: where garbage was collected on the dead branch beyond the last good catalog,
// there is no place to begin, and a create at a freed position is not tried.
func TestArriveNowhere(t *testing.T) {
	k := Arrive(segment.Token{Epoch: 2})
	if err := k.Catalog(&Catalog{End: Place{Position: 7, Next: 5}, Freed: true}); !fail.Is(err, fail.Refused) {
		t.Errorf("%v", err)
	}
}
