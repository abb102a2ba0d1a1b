package claim

import (
	"testing"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
)

// TestGap: garbage collection frees a position in the middle of a walk, and an older writer's late
// create arrives there. What comes behind it leaves a gap, which is damage only where no catalog has
// passed the walk meanwhile.
func TestGap(t *testing.T) {
	token := func(epoch uint64) segment.Token { return segment.Token{Epoch: epoch, Writer: writerID(0, &actor{})} }
	at := func(position, next uint64) Place { return Place{Position: position, Next: next, Token: token(2)} }
	for _, passed := range []bool{true, false} {
		c := Arrive(segment.Token{Epoch: 3, Writer: writerID(1, &actor{})})
		if err := c.Catalog(&Catalog{End: at(11, 6)}); err != nil {
			t.Fatal(err)
		}
		void := Object{Type: segment.Segment, Token: token(1), First: 6, Last: 6}
		if counts, err := c.Found(void, 0); counts || err != nil {
			t.Fatal(counts, err)
		}
		behind := Object{Type: segment.Segment, Token: token(2), First: 7, Last: 7}
		if counts, err := c.Found(behind, 0); counts || err != nil || c.Step() != FindCatalog {
			t.Fatal(counts, err, c.Step())
		}
		newest := &Catalog{End: at(11, 6)}
		if passed {
			newest = &Catalog{End: at(14, 9), Passed: true}
		}
		err := c.Catalog(newest)
		switch {
		case !passed && !fail.Is(err, fail.Damaged):
			t.Errorf("damage is reported as %v", err)
		case passed && (err != nil || c.Step() != Read || c.Place() != at(14, 9)):
			t.Errorf("it does not begin again from the catalog: %v, at %+v", err, c.Place())
		}
	}
}
