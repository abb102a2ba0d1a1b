package agent

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
)

func attackAgent(t *testing.T, o Options, sc StreamConf, vc VolumeConf) *Agent {
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

// 5: on_ack_loss is changed to degrade while a flush waits for longer than degradeAfter.
func TestAckDegradeLate(t *testing.T) {
	o := regressOpts(t)
	sc := StreamConf{ID: uuid.New(), Number: 1, Group: "g", Policy: Policy{Ack: AckRemote, OnLoss: LossWait}}
	vc := VolumeConf{Name: "v", Number: 2, Group: "g", Stream: sc.ID, SizeBytes: 1 << 20, Backing: filepath.Join(t.TempDir(), "v.img")}
	a := attackAgent(t, o, sc, vc)
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
	time.Sleep(degradeAfter + time.Second)
	sc.Policy.OnLoss = LossDegrade
	if err := a.AddStream(sc); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		t.Log("flush ended", err)
	case <-time.After(3 * degradeAfter):
		t.Errorf("%v after the policy became degrade the flush still waits: %+v", 3*degradeAfter, a.Status().Streams[0].Kept)
	}
}

// 6: what is kept after a restart.
func TestAckKeptRestart(t *testing.T) {
	o := regressOpts(t)
	sc := StreamConf{ID: uuid.New(), Number: 1, Group: "g", Policy: Policy{Ack: AckRemote, OnLoss: LossDegrade}}
	vc := VolumeConf{Name: "v", Number: 2, Group: "g", Stream: sc.ID, SizeBytes: 1 << 20, Backing: filepath.Join(t.TempDir(), "v.img")}
	a := attackAgent(t, o, sc, vc)
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
	a = attackAgent(t, o, sc, vc)
	defer a.Close(context.Background())
	st := a.Status().Streams[0]
	t.Logf("after: %+v; last LSN %d, remote LSN %d", st.Kept, st.LastLSN, st.RemoteLSN)
	if st.Kept.Ack == AckRemote {
		t.Error("claims that every answered flush is remote")
	}
}
