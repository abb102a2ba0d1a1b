package standby

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/failback"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/twin"
)

var errCut = errors.New("cut")

// handedOver has the seat at busan, which took it up by a hand-over, and makes a standby's state of
// the former seat's.
func (p *pair) handedOver() (busan *Daemon) {
	p.t.Helper()
	a, none := p.seat("v", "w"), new(json.RawMessage)
	busan = p.start(nil)
	p.call(p.a, api.VerbHandOver, api.HandOver{To: "busan", WaitSeconds: 120, LimitSeconds: 120}, none)
	p.eventually("busan serves", func() error {
		if !busan.isAgent() {
			return errors.New("it is no agent yet")
		}
		return nil
	})
	<-a.HandedOver()
	p.close(a)
	open := func(ctx context.Context, t config.Target) (objstore.Store, func(), error) {
		s, err := objstore.Open(ctx, t.URL, objstore.Options{ReadOnly: true})
		return s, func() { _ = s.Close() }, err
	}
	_, err := failback.Run(p.t.Context(), failback.Options{Conf: p.a, HandedOver: true, Open: open,
		Confirm: func(*failback.Report) error { return nil }, Tell: func(string) {},
		Stage:  func(string) (twin.Progress, func()) { return func(int64, int64) {}, func() {} },
		Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		p.t.Fatal(fail.Explain(err))
	}
	return busan
}

// TestRollBackCut: the site that takes a rollback up is stopped behind each of its steps, and goes on;
// the volumes are at the point of the hand-over, and what was last is kept.
func TestRollBackCut(t *testing.T) {
	p := newPair(t)
	busan := p.handedOver()
	defer p.close(busan)
	p.write(p.b, "v", 0, 'X')
	p.write(p.b, "w", 65536, 'Y')
	var found api.RollBackReport
	p.call(p.b, api.VerbRollBack, api.RollBack{DryRun: true}, &found)
	var cuts []string
	follow := func() *Daemon {
		d, err := Start(t.Context(), p.a, Options{Version: "test", Logger: slog.New(slog.DiscardHandler),
			step: func(name string) error {
				if slices.Contains(cuts, name) {
					return nil
				}
				cuts = append(cuts, name)
				return errCut
			}})
		if err != nil {
			t.Fatal(fail.Explain(err))
		}
		return d
	}
	d := follow()
	ended := make(chan error, 1)
	go func() {
		r := api.RollBack{Journal: found.Journal, Epoch: found.Epoch, WaitSeconds: 120, LimitSeconds: 120}
		ended <- api.Dial(p.b.Socket).Call(t.Context(), api.VerbRollBack, r, new(json.RawMessage))
	}()
	for !d.isAgent() {
		p.eventually("it is cut, or done", func() error {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.next == nil && !errors.Is(d.promotion, errCut) {
				return fmt.Errorf("promotion: %v, %+v", d.promotion, cuts)
			}
			return nil
		})
		if !d.isAgent() {
			p.close(d)
			d = follow()
		}
	}
	defer p.close(d)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	t.Logf("cut behind %q", cuts)
	if len(cuts) < 8 {
		t.Error("too few cuts")
	}
	p.want(p.a, "v", map[int64]byte{0: 'A'})
	p.want(p.a, "w", map[int64]byte{0: 'A', 65536: 0})
	var marks []api.Bookmark
	p.call(p.a, api.VerbBookmarkList, api.List{}, &marks)
	if len(marks) != 1 || marks[0].Name != "before-rollback-3" || marks[0].LSN < found.Groups[0].LastLSN {
		t.Errorf("bookmarks %+v, the last write was LSN %d", marks, found.Groups[0].LastLSN)
	}
}

// TestRollBackUnanswered: while nobody is there to take it up, nothing is undone, and I/O goes on; what
// to start is said. A later one goes on from there.
func TestRollBackUnanswered(t *testing.T) {
	p := newPair(t)
	busan := p.handedOver()
	defer p.close(busan)
	p.write(p.b, "v", 0, 'X')
	var found api.RollBackReport
	p.call(p.b, api.VerbRollBack, api.RollBack{DryRun: true}, &found)
	r := api.RollBack{Journal: found.Journal, Epoch: found.Epoch, WaitSeconds: 0.2}
	err := api.Dial(p.b.Socket).Call(t.Context(), api.VerbRollBack, r, new(json.RawMessage))
	if !fail.Is(err, fail.Retry) || fail.HintOf(err) == "" {
		t.Errorf("%v, %s", err, fail.HintOf(err))
	}
	t.Log(fail.HintOf(err))
	p.want(p.b, "v", map[int64]byte{0: 'X'})
	var st api.Status
	if p.call(p.b, api.VerbStatus, struct{}{}, &st); st.Journal.WayBack == nil {
		t.Error("there is no way back any more")
	}
	// Without a rollback: the very same site, by another hand-over, with all that was written.
	d, err := Start(t.Context(), p.a, Options{Version: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer p.close(d)
	p.call(p.b, api.VerbHandOver, api.HandOver{To: "seoul", WaitSeconds: 120, LimitSeconds: 120}, new(json.RawMessage))
	p.eventually("seoul serves", func() error {
		if !d.isAgent() {
			return errors.New("it is no agent yet")
		}
		return nil
	})
	p.want(p.a, "v", map[int64]byte{0: 'X'})
}
