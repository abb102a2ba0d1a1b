package objlog

import (
	"fmt"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// ErrForeign is of a log that belongs to another journal than the one that is to write it.
func ErrForeign(op string, s objstore.Store, theirs, ours uuid.UUID) error {
	return fail.New(fail.Fenced, op, s.URL(), fmt.Sprintf("it belongs to journal %s, not to %s", theirs, ours)).
		WithHint("give this target a prefix of its own")
}

// ErrLost is of a log in which a position is missing that a journal knows to be there, which
// has written so many. To go on in an empty one would make a log that begins in the middle, and
// cannot be restored.
func ErrLost(op string, s objstore.Store, position, written uint64) error {
	return fail.New(fail.NotFound, op, s.URL(),
		fmt.Sprintf("object %s is missing, and this journal has written %d objects", ObjectName(position), written)).
		WithHint("is the right directory mounted, or the url wrong? Nothing is written until the log is back")
}
