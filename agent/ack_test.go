package agent

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/change"
)

// ackAgent is an agent whose journal cannot be reached.
func ackAgent(t *testing.T, o Options, sc StreamConf, vc VolumeConf) *Agent {
	t.Helper()
	o.DegradeAfter = 50 * time.Millisecond
	o.Dial = func(context.Context) (net.Conn, error) { return nil, errors.New("no journal") }
	a, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.AddStream(sc); err != nil {
		t.Fatal(err)
	}
	if err := a.AttachVolume(context.Background(), vc); err != nil {
		t.Fatal(err)
	}
	return a
}

// TestAckDegradeLate: the policy becomes degrade while a flush waits already.
func TestAckDegradeLate(t *testing.T) {
	o := regressOpts(t)
	sc := StreamConf{ID: uuid.New(), Number: 1, Group: "g", Policy: Policy{Ack: AckRemote, OnLoss: LossWait}}
	vc := VolumeConf{Name: "v", Number: 2, Group: "g", Stream: sc.ID, SizeBytes: 1 << 20,
		Backing: filepath.Join(t.TempDir(), "v.img")}
	a := ackAgent(t, o, sc, vc)
	defer a.Close(context.Background())
	dev, err := a.Device("v")
	if err != nil {
		t.Fatal(err)
	}
	writeDevice(t, dev, make([]byte, 4096), 0)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- dev.Flush(ctx) }()
	deadline := time.Now().Add(10 * time.Second)
	for ; a.Status().Streams[0].Kept.Waiting == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the flush does not wait")
		}
	}
	time.Sleep(100 * time.Millisecond) // longer than DegradeAfter: its first chance is over
	sc.Policy.OnLoss = LossDegrade
	if err := a.AddStream(sc); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Errorf("the flush still waits: %+v", a.Status().Streams[0].Kept)
	}
}

// TestAckKeptRestart: a restart does not make a promise of what was degraded.
func TestAckKeptRestart(t *testing.T) {
	o := regressOpts(t)
	sc := StreamConf{ID: uuid.New(), Number: 1, Group: "g", Policy: Policy{Ack: AckRemote, OnLoss: LossDegrade}}
	vc := VolumeConf{Name: "v", Number: 2, Group: "g", Stream: sc.ID, SizeBytes: 1 << 20,
		Backing: filepath.Join(t.TempDir(), "v.img")}
	a := ackAgent(t, o, sc, vc)
	dev, err := a.Device("v")
	if err != nil {
		t.Fatal(err)
	}
	writeDevice(t, dev, make([]byte, 4096), 0)
	if err := dev.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Logf("before: %+v", a.Status().Streams[0].Kept)
	_ = a.Close(context.Background())
	a = ackAgent(t, o, sc, vc)
	defer a.Close(context.Background())
	st := a.Status().Streams[0]
	t.Logf("after: %+v; last LSN %d, remote LSN %d", st.Kept, st.LastLSN, st.RemoteLSN)
	if st.Kept.Ack == AckRemote {
		t.Error("claims that every answered flush is remote")
	}
}

// TestLagAfterRestart: what left the WAL before the targets had it counts as lag,
// after a restart too.
func TestLagAfterRestart(t *testing.T) {
	o := regressOpts(t)
	sc := StreamConf{ID: uuid.New(), Number: 1, Group: "g"}
	vc := VolumeConf{Name: "v", Number: 2, Group: "g", Stream: sc.ID, SizeBytes: 1 << 20,
		Backing: filepath.Join(t.TempDir(), "v.img")}
	a := ackAgent(t, o, sc, vc)
	dev, err := a.Device("v")
	if err != nil {
		t.Fatal(err)
	}
	writeDevice(t, dev, make([]byte, 4096), 0)
	if err := dev.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	s := a.streams[sc.ID]
	s.mu.Lock()
	s.evicted.lag.add(&frameRef{last: 1, time: time.Now().Add(-time.Hour).UnixNano(), bytes: 777})
	s.mu.Unlock()
	if err := a.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	a = ackAgent(t, o, sc, vc)
	defer a.Close(context.Background())
	if st := a.Status().Streams[0]; st.Lag < time.Hour || st.LagBytes < 777 {
		t.Errorf("lag %v, %d bytes", st.Lag, st.LagBytes)
	}
}

// TestRemoteGoesBack: when another target becomes required, what the required ones hold may be
// less than before. A FLUSH then waits for that one too.
func TestRemoteGoesBack(t *testing.T) {
	o := regressOpts(t)
	sc := StreamConf{ID: uuid.New(), Number: 1, Group: "g", Policy: Policy{Ack: AckRemote, OnLoss: LossWait}}
	vc := VolumeConf{Name: "v", Number: 2, Group: "g", Stream: sc.ID, SizeBytes: 1 << 20,
		Backing: filepath.Join(t.TempDir(), "v.img")}
	a := ackAgent(t, o, sc, vc)
	defer a.Close(context.Background())
	s := a.streams[sc.ID]
	for _, c := range []struct{ durable, promised uint64 }{{9, 9}, {4, 4}, {12, 12}} {
		s.acked(&change.Ack{Stream: sc.ID, Durable: c.durable})
		s.mu.Lock()
		kept, _ := s.promised(c.promised)
		more, _ := s.promised(c.promised + 1)
		s.mu.Unlock()
		if !kept || more {
			t.Errorf("the targets hold %d: LSN %d is promised: %v, one more: %v", c.durable, c.promised, kept, more)
		}
	}
}
