package twin

import (
	"context"
	"encoding/json"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objlog"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
	"github.com/pollux-dr/pollux/replicator/state"
)

// Audits are all entries of the audit that the log still holds, oldest first: the
// control state keeps the newest only.
func (l *Log) Audits(ctx context.Context) (out []state.Audit, err error) {
	marks := []int{l.readPoint}
	if l.Catalog != nil {
		marks = marks[:0]
		for mark := range l.Catalog.ReadPoints {
			marks = append(marks, mark)
		}
	}
	for _, mark := range marks {
		w, err := l.view(ctx, mark)
		if err != nil {
			return nil, err
		}
		some, err := w.audits(ctx)
		if err != nil {
			return nil, err
		}
		out = append(out, some...)
	}
	for i := range out { // the journal counts them; what garbage collection took was before
		out[i].Number = l.State.AuditCount() - uint64(len(out)-1-i)
	}
	return out, nil
}

func isAudit(e *segment.Entry) bool {
	return e.Kind == segment.CommandEntry && e.Command == state.KindAudit
}

// audits are those of one part of the log.
func (l *Log) audits(ctx context.Context) (out []state.Audit, err error) {
	found := make([][]state.Audit, len(l.Objects))
	err = parallel(ctx, len(l.Objects), func(ctx context.Context, i int) (err error) {
		found[i], err = l.auditsOf(ctx, l.Objects[i])
		return err
	})
	for _, some := range found {
		out = append(out, some...)
	}
	return out, err
}

func (l *Log) auditsOf(ctx context.Context, x *segment.Index) (out []state.Audit, err error) {
	lo, hi := bytesOf(x, isAudit)
	if hi == 0 {
		return nil, nil
	}
	b, err := l.store.Read(ctx, objlog.ObjectName(x.Position), lo, hi-lo, nil)
	if err == nil && int64(len(b)) < hi-lo {
		err = l.damaged(x.Position, "object cut short at byte %d", lo+int64(len(b)))
	}
	for k := 0; k < len(x.Entries) && err == nil; k++ {
		e := &x.Entries[k]
		if !isAudit(e) {
			continue
		}
		var body []byte
		if _, body, err = x.Command(b[e.Offset-lo:][:e.Bytes], k); err == nil {
			var a state.Audit
			err = fail.Wrap(fail.Damaged, "decode", "audit entry", json.Unmarshal(body, &a))
			out = append(out, a)
		}
	}
	return out, fail.At("read", l.at(x.Position), err)
}
