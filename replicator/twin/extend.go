package twin

import (
	"context"

	"github.com/pollux-dr/pollux/internal/fail"
)

// extendWidth is how many positions are asked for in one go behind the end that is expected.
const extendWidth = 4

// Extend reads what a log got since it was opened: by the names of its positions up to one that it is
// expected to reach, all at once, and without looking for a newer catalog. It is for whoever waits for each
// way there and back. ok is that l is the log as it is now; else, and after an error, it is of no use any
// more: Open tells then. Nobody else may use l meanwhile. A position that garbage collection has freed reads
// as the end.
func (l *Log) Extend(ctx context.Context, to uint64) (ok bool, err error) {
	if l.Damage != nil || l.CatalogDamage != nil || l.Beyond > 0 || to < l.End {
		return false, nil
	}
	for end := to + 1; ; end += extendWidth { // one more than is expected: that there is no more
		asked := make([]located, end-l.End)
		for i := range asked {
			asked[i] = located{position: l.End + uint64(i), bytes: -1}
		}
		got, err := l.footers(ctx, asked, isCommand)
		if err != nil {
			return false, err
		}
		n := 0
		for n < len(got) && got[n].err == nil {
			n++
		}
		for _, f := range got[n:] {
			if !fail.Is(f.err, fail.NotFound) { // there is something, and Open says what
				return false, nil
			}
		}
		if ok, err := l.extendBy(ctx, got[:n]); !ok || err != nil || n < len(got) {
			return ok, err
		}
	}
}

// extendBy takes objects that follow.
func (l *Log) extendBy(ctx context.Context, got []footer) (ok bool, err error) {
	if len(got) == 0 {
		return true, nil
	}
	had := l.Objects
	l.Objects, l.End = nil, l.End+uint64(len(got))
	if err := l.order(ctx, got, nil); err != nil {
		if ofObject(err) { // a fence goes back behind where this was opened, say
			err = nil
		}
		return false, err
	}
	if err := l.replay(ctx, got); err != nil || l.Damage != nil {
		return false, err
	}
	for i := range got {
		l.Bytes += got[i].x.Bytes
	}
	l.Objects = append(had, l.Objects...)
	clear(l.Frames)
	l.index()
	return true, nil
}
