package journal

import (
	"fmt"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/internal/fail"
)

// Supersede ends what this member takes: the journal has its seat elsewhere. It may be called
// again when more is known. It holds for this process; who calls it keeps it beyond.
func (j *Journal) Supersede(s change.Superseded) {
	j.proposer.over.Store(&s)
	j.changed.Broadcast()
}

// Superseded is what Supersede was told last; nil while the seat is here.
func (p *proposer) Superseded() *change.Superseded { return p.over.Load() }

// mayExtend refuses whatever would extend a journal that went on elsewhere.
func (p *proposer) mayExtend() error {
	if s := p.over.Load(); s != nil {
		return ErrSuperseded(s)
	}
	return nil
}

// ErrSuperseded is the error of whatever a superseded seat is asked for.
func ErrSuperseded(s *change.Superseded) error {
	where := ""
	if s.Site != "" {
		where = " at " + s.Site
	}
	return fail.New(fail.Fenced, "extend", "journal", fmt.Sprintf("it went on%s under epoch %d, and has epoch %d here",
		where, s.Epoch, s.Own)).WithHint("use it there; pollux failback makes a standby of this host, and keeps what " +
		"never left it as a branch")
}
