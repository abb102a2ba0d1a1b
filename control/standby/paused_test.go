package standby

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/api"
	"github.com/pollux-dr/pollux/control/promote"
	"github.com/pollux-dr/pollux/internal/config"
	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/journal/journalnode"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

// TestPausedBehindFence: a site that has fenced the log is stopped for long before it serves, and another
// one takes the journal over meanwhile. When it goes on, it looks at the log first: nothing that waits
// at it is acknowledged.
func TestPausedBehindFence(t *testing.T) {
	fresh = 0 // it was stopped for longer than that
	defer func() { fresh = freshLimit }()
	p := newPair(t)
	p.parking("")
	endpoint := bucket(t)
	near, far := newWire(t, endpoint), newWire(t, endpoint)
	p.conf("c", "daegu", "")
	p.a, p.b = p.over(far, "a"), p.over(near, "b")
	o := p.options()
	o.Conf = p.over(far, "c")
	o.Open = func(ctx context.Context, t config.Target) (objstore.Store, func(), error) {
		st, err := objstore.Open(ctx, t.URL, journalnode.StoreOptions(t))
		return st, func() {}, err
	}
	p.close(p.seat("v", "w"))
	d := p.start(func(step string) error {
		if step == "agent" {
			rep, err := promote.Force(t.Context(), o)
			if err != nil || rep.Epoch != 3 {
				t.Errorf("the other one: %+v, %v", rep, err)
			}
			near.oneWay.Store(int64(50 * time.Millisecond))
		}
		return nil
	})
	defer p.close(d)
	p.follows(d, 2)
	v := p.attach("v", 65536, 'P')
	defer v.Close()
	if _, err := p.failover(api.Failover{}); err != nil {
		t.Fatal(fail.Explain(err))
	}
	if err := <-v.wrote; err == nil {
		t.Error("a write was acknowledged at a site that another one has overtaken")
	}
	p.eventually("it says so", func() error {
		var st api.Status
		p.call(p.b, api.VerbStatus, struct{}{}, &st)
		if st.Groups[0].State != api.Superseded {
			return errors.New(st.Groups[0].State)
		}
		return nil
	})
}

// TestTakeUpAgain: what keeps a standby from taking a hand-over up, and passes, is waited out: once its
// fence stands, nobody else serves.
func TestTakeUpAgain(t *testing.T) {
	for _, cut := range []string{"fence", "journal", "commands"} {
		t.Run(cut, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			a := p.seat("v", "w")
			defer p.close(a)
			left := 1
			d := p.start(func(step string) error {
				if step == cut && left > 0 {
					left--
					return fail.New(fail.Retry, "", "", "the store is away for a moment")
				}
				return nil
			})
			defer p.close(d)
			p.follows(d, 2)
			p.call(p.a, api.VerbHandOver, api.HandOver{To: "busan"}, new(json.RawMessage))
			p.eventually("it serves", func() error {
				if !d.isAgent() {
					return errors.New(d.status().Error)
				}
				return nil
			})
			p.want(p.b, "v", map[int64]byte{0: 'A'})
		})
	}
}
