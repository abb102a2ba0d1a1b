package objlog

import (
	"fmt"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/state"
)

// Rules decide, object by object in the order of positions, which ones count. Every reader of
// a log goes by them.
type Rules struct {
	Journal uuid.UUID
	Token   segment.Token // of the newest fence
	Next    uint64        // the journal index that must follow
	// Lost: objects before could not be read, so that the next one cannot be
	// held against them. Only twin.Examine goes on then.
	Lost bool
}

// Judge takes the next object after the identity. It is void where its writer
// was fenced before; an error says how it breaks the log.
func (r *Rules) Judge(x *segment.Index) (valid bool, err error) {
	if x.Journal != r.Journal {
		return false, fmt.Errorf("it is of journal %s, the log of %s", x.Journal, r.Journal)
	}
	c := x.Token.Compare(r.Token)
	switch {
	case c < 0:
		return false, nil
	case c == 0 && x.Token.Writer != r.Token.Writer && r.Token != (segment.Token{}):
		return false, nil // the first of two rivals counts
	case x.Type == segment.Identity:
		return false, fmt.Errorf("an identity in the middle of the log")
	case x.Type == segment.Segment && c != 0 && !r.Lost:
		return false, fmt.Errorf("%v under %v without a fence before it", x.Type, x.Token)
	case x.Type == segment.Segment && x.FirstIndex != r.Next && !r.Lost:
		return false, fmt.Errorf("it begins at journal index %d, %d must follow", x.FirstIndex, r.Next)
	case x.Type == segment.Fence && x.FirstIndex > r.Next && !r.Lost:
		return false, fmt.Errorf("the fence goes on at journal index %d, the log reached %d", x.FirstIndex, r.Next)
	}
	r.Token, r.Lost = x.Token, false
	r.Next = x.FirstIndex // a fence may go back: what lies beyond is a dead branch
	if x.Type == segment.Segment {
		r.Next = x.LastIndex + 1
	}
	return true, nil
}

// ProvesMissing tells whether an object that exists proves that position `first`,
// which does not, once did: a writer creates at most segment.MaxInFlight beyond
// what is durable, and says in each object what it knew durable. x may be nil
// where only the position is known.
func ProvesMissing(first, position uint64, x *segment.Index) bool {
	return position > first+segment.MaxInFlight || (x != nil && x.DurablePosition > first)
}

// ErrMissing is of a position that another one proves to have been there.
func ErrMissing(url string, first, position uint64) error {
	return fail.New(fail.Damaged, "open", url+"/"+ObjectName(first),
		fmt.Sprintf("the object is missing, but position %d exists", position)).
		WithHint("an object of the log was deleted; restore it from a version or replica of the bucket")
}

// Replay is State.Apply on a command of the log, which the journal accepted: the state must
// take it too. Errors: fail.Damaged, fail.Unsupported.
func Replay(s *state.State, kind state.Kind, body []byte) error {
	_, err := s.Apply(kind, body)
	if err == nil || fail.Is(err, fail.Unsupported) {
		return err
	}
	return fail.Wrap(fail.Damaged, "apply", kind.String(), err)
}
