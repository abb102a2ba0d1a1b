package standby

import (
	"context"
	"errors"
	"fmt"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// Adopt makes in o.Dir the state of a standby whose images are there already, each at a consistent
// point of the log that somebody else brought it to: Open then starts it, and only what was written
// behind that point is brought. It may be repeated until Run was called. Errors: fail.Refused where
// the log is not what the image is of, or o.Want does not want it there.
func Adopt(ctx context.Context, o Options, held map[string]Held) error {
	s, err := Open(o)
	if err != nil {
		return err
	}
	if s.cur == nil {
		if err := s.begin(ctx); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.cur.clone()
	var errs []error
	for name, h := range held {
		v := c.Volumes[name]
		switch {
		case v == nil || v.Stream != h.Stream || v.Path != h.Path:
			errs = append(errs, fail.New(fail.Refused, "adopt", "image "+h.Path,
				fmt.Sprintf("volume %s is not wanted there, or is another one", name)))
		case h.Hash == (change.Hash{}) && h.LSN > 0:
			errs = append(errs, fail.New(fail.Invalid, "adopt", "image "+h.Path, "of a point without a hash"))
		case v.Following || v.Image: // an earlier call did it
		default:
			v.Begun, v.Image, v.Low, v.High, v.Hash = true, true, h.LSN, h.LSN, h.Hash
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return s.save(c, false)
}
