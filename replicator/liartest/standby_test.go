package liartest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/liar"
	"github.com/pollux-dr/pollux/replicator/logtest"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
	"github.com/pollux-dr/pollux/replicator/twin/standby"
)

// TestStandby: whatever a standby is told while it copies and follows, its image is the volume at
// the point that it says; and it reaches the end of the log as soon as the truth is told.
func TestStandby(t *testing.T) {
	srv := startServer(t)
	eachLie(t, readers, func(t *testing.T, ctx context.Context, lie *liar.Lie, n int, _ bool) {
		l := newLying(t, srv)
		f := &follower{t: t, log: writeLog(t, l.honest, 4), dir: t.TempDir()}
		f.store = objstore.WithRetry(l.store, objstore.Policy{MinBackoff: time.Millisecond,
			MaxBackoff: 10 * time.Millisecond, Patience: func(bool) time.Duration { return 50 * time.Millisecond }})
		l.Tell(lie, n, "")
		f.tired = func() bool { return n < 0 && l.Told() > tiresome }
		lied, cancel := context.WithTimeout(ctx, 700*time.Millisecond)
		f.run(lied)
		cancel()
		f.log.Random(rand.New(rand.NewPCG(5, 1)), 5)
		l.Tell(lie, n, "")
		lied, cancel = context.WithTimeout(ctx, 300*time.Millisecond)
		f.run(lied)
		cancel()
		f.tired = func() bool { return false }
		l.Tell(nil, 0, "")
		if !f.run(ctx) {
			t.Errorf("the truth does not bring it to the end of the log")
		}
	})
}

// tiresome is how many lies of those without end a standby is told before it is stopped: it has
// given requests up by then, and begun again.
const tiresome = 20

// follower is a standby that runs now and then.
type follower struct {
	t     *testing.T
	log   *logtest.Log
	store objstore.Store
	dir   string
	tired func() bool // enough was followed
}

// run follows until the end of the log is reached, or enough was, or ctx ends, and checks the image. reached is
// that it was.
func (f *follower) run(ctx context.Context) (reached bool) {
	f.t.Helper()
	s, err := standby.Open(standby.Options{Store: f.store, Dir: filepath.Join(f.dir, "standby"),
		MinPoll: time.Millisecond, MaxPoll: 10 * time.Millisecond, Want: func(*state.State) []standby.Volume {
			return []standby.Volume{{Name: "v", Path: filepath.Join(f.dir, "v.img")}}
		}})
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	for ctx.Err() == nil && !reached && !f.tired() {
		time.Sleep(2 * time.Millisecond)
		reached = s.Images()["v"].LSN == f.log.Point.LSN
	}
	stop()
	if err := <-done; err != nil {
		f.t.Fatal(err)
	}
	if at := s.Images()["v"].LSN; at > 0 {
		got, err := os.ReadFile(filepath.Join(f.dir, "v.img"))
		if err != nil {
			f.t.Fatal(err)
		}
		if want := f.log.History[at]["v"]; string(got) != string(want) {
			f.t.Error(fmt.Errorf("the image is not the volume's at LSN %d", at))
		}
	} else if reached {
		f.t.Error("it reached the end, and follows nothing")
	}
	return reached
}
