package systemtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"
)

// TestAckJournal loses the host of the agent and one of three of the journal, with
// its disk, at the same moment: everything that a FLUSH was answered for is in the
// twin.
func TestAckJournal(t *testing.T) {
	c := newCluster(t, 3)
	c.form()
	s := newSite(t, siteConf{journal: c.addresses(), url: c.store})
	s.mustStart()
	const size = 16 << 20
	s.verb("group", "create", "g", "--ack", "journal")
	s.verb("volume", "create", "v", "--group", "g", "--size", "16MiB")
	w := newWriter(s, "g", "v", size, newRand(t))
	w.connect()
	done := make(chan error, 1)
	go func() { done <- w.run(context.Background()) }()
	w.progress(1000)
	lost := c.leader()
	s.agent.Kill()
	lost.kill()
	<-done
	_ = os.RemoveAll(lost.state())
	_ = os.RemoveAll(s.conf.state)
	if w.pending != nil { // it may have happened
		w.h.add(*w.pending, len(w.pending.parts()))
	}
	flushed := w.flushed.Load()
	until(t, time.Minute, "the twin holds what was flushed", func() error {
		if lsn := s.storeLastLSN("v"); lsn < flushed {
			return fmt.Errorf("LSN %d of %d", lsn, flushed)
		}
		return nil
	})
	newest := w.checkNewest()
	t.Logf("flushed up to LSN %d, the twin holds %d, %d requests", flushed, newest, w.ops.Load())
}

// TestAckPolicies changes a group's promise online, and takes away what it needs:
// a flush waits, or gives up and says so.
func TestAckPolicies(t *testing.T) {
	c := newCluster(t, 3)
	c.form()
	s := newSite(t, siteConf{journal: c.addresses(), url: c.store})
	s.mustStart()
	s.volume("g", "v", "16MiB")
	conn := s.dial("v")
	write := func(limit time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		b := make([]byte, 4096)
		b[0] = byte(rand.Uint32())
		if err := conn.WriteAt(ctx, b, 0, 0); err != nil {
			return err
		}
		return conn.Flush(ctx)
	}
	must := func(what string) {
		t.Helper()
		if err := write(30 * time.Second); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	for _, ack := range []string{"local", "journal", "remote", "journal"} {
		s.verb("group", "set", "g", "--ack", ack)
		must(ack)
		if g := s.group("g"); g.Ack != ack || g.AckKept != ack || g.AckReason != "" ||
			(ack == "remote" && g.DurableLSN < g.LastLSN) {
			t.Errorf("ack %s: %+v", ack, g)
		}
	}

	// No majority: a flush waits, and goes on by itself.
	a, b := c.members[(c.leader().n+1)%3], c.members[(c.leader().n+2)%3]
	a.kill()
	b.kill()
	answered := make(chan error, 1)
	go func() { answered <- write(2 * time.Minute) }()
	until(t, time.Minute, "the status says what the flush waits for", func() error {
		g := s.group("g")
		if g.FlushesWaiting == 1 && g.State == "Throttled" && g.Reason != "" {
			return nil
		}
		return fmt.Errorf("%+v", g)
	})
	select {
	case err := <-answered:
		t.Fatalf("a flush was answered by a minority: %v", err)
	default:
	}
	a.start()
	if err := <-answered; err != nil {
		t.Fatalf("the flush that waited: %v", err)
	}

	// The same with on_ack_loss: degrade.
	c.leader() // the setting needs the journal
	s.verb("group", "set", "g", "--on-ack-loss", "degrade")
	must("before")
	a.kill()
	start := time.Now()
	must("degraded")
	if d := time.Since(start); d < time.Second {
		t.Errorf("degraded after %v", d)
	}
	g := s.group("g")
	if !g.AckDegraded || g.AckKept != "local" || g.Ack != "journal" || g.State != "Lagging" {
		t.Errorf("degraded: %+v", g)
	}
	must("while degraded")
	a.start()
	b.start()
	until(t, time.Minute, "the promise is kept again", func() error {
		if g := s.group("g"); g.AckDegraded || g.AckKept != "journal" {
			return fmt.Errorf("%+v", g)
		}
		return nil
	})
	must("afterwards")
	s.drained("g", time.Minute)
}
