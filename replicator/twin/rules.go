package twin

import (
	"fmt"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/replicator/objlog/segment"
)

// rules decide, object by object in the order of positions, which ones count.
type rules struct {
	journal uuid.UUID
	cur     segment.Token // of the newest fence
	next    uint64        // the journal index that must follow
	// lost: objects before could not be read, so that the next one cannot be
	// held against them. Only Examine goes on then.
	lost bool
}

// judge takes the next object after the identity. It is void where its writer
// was fenced before; an error says how it breaks the log.
func (r *rules) judge(x *segment.Index) (valid bool, err error) {
	if x.Journal != r.journal {
		return false, fmt.Errorf("it is of journal %s, the log of %s", x.Journal, r.journal)
	}
	c := x.Token.Compare(r.cur)
	switch {
	case c < 0:
		return false, nil
	case c == 0 && x.Token.Writer != r.cur.Writer && r.cur != (segment.Token{}):
		return false, nil // the first of two rivals counts
	case x.Type == segment.Identity:
		return false, fmt.Errorf("an identity in the middle of the log")
	case x.Type == segment.Segment && c != 0 && !r.lost:
		return false, fmt.Errorf("%v under %v without a fence before it", x.Type, x.Token)
	case x.Type == segment.Segment && x.FirstIndex != r.next && !r.lost:
		return false, fmt.Errorf("it begins at journal index %d, %d must follow", x.FirstIndex, r.next)
	case x.Type == segment.Fence && x.FirstIndex > r.next && !r.lost:
		return false, fmt.Errorf("the fence goes on at journal index %d, the log reached %d", x.FirstIndex, r.next)
	}
	r.cur, r.lost = x.Token, false
	r.next = x.FirstIndex // a fence may go back: what lies beyond is a dead branch
	if x.Type == segment.Segment {
		r.next = x.LastIndex + 1
	}
	return true, nil
}
