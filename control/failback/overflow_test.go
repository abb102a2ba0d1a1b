package failback

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/agent"
	"github.com/pollux-dr/pollux/control/node"
	"github.com/pollux-dr/pollux/internal/config"
)

// overflow has the agent at A go on without any journal, until its WAL has overflowed into the bitmap.
func (s *story) overflow() {
	s.t.Helper()
	ctx := s.t.Context()
	a, err := agent.Open(agent.Options{Name: s.a.Name, StateDir: filepath.Join(s.a.State, "agent"),
		ArenaPath: node.ArenaPath(s.a), MemoryBytes: int64(s.a.Memory), WALBudgetBytes: 16 << 20,
		WALSegmentBytes: 1 << 20, WALReserveBytes: 1 << 20, CheckpointInterval: 10 * time.Millisecond,
		SpillAfter: time.Nanosecond,
		Dial:       func(context.Context) (net.Conn, error) { return nil, errors.New("no journal") }})
	s.must(err)
	conf := a.Status().Streams[0].Conf
	conf.Overflow = agent.OverflowBitmap // as where the journal is on other hosts
	s.must(a.AddStream(conf))
	dev, err := a.Device("v")
	s.must(err)
	at := func() *agent.Overflow { return a.Status().Streams[0].Overflow }
	for n := 0; at() == nil || n < 2000; n++ { // 31 MiB through 16
		block := int64(n*7) % 300
		data := s.lone["v"][block*blockBytes:][:blockBytes]
		_, _ = s.random.Read(data)
		buf, err := dev.Prepare(ctx, blockBytes)
		s.must(err)
		for _, p := range buf.Pieces() {
			data = data[copy(p, data):]
		}
		s.must(dev.Write(ctx, buf, block*blockBytes, n%16 == 0))
	}
	s.must(a.Close(ctx))
}

// TestOverflow: what has left the WAL is in its bitmap, and goes back as well; nothing is compared.
// Where the bitmap does not reach back to the branch point either, the volumes are.
func TestOverflow(t *testing.T) {
	for _, committed := range []bool{false, true} {
		t.Run(fmt.Sprint("committed ", committed), func(t *testing.T) {
			t.Parallel()
			s := newStory(t, func(s *sites, a *config.Agent) {
				if committed { // by the journal at A, which has it in its WAL alone
					alone(s, a)
				}
			})
			s.overflow()
			s.since()
			rep, err := Run(t.Context(), s.options(s.a))
			if err != nil {
				t.Fatal(err)
			}
			g := rep.Groups[0]
			if g.Compare != committed || g.Rounded == committed || (rep.ComparedBytes > 0) != committed {
				t.Errorf("committed %v: %+v", committed, rep)
			}
			s.wantBackings(s.a, s.parted)
			s.wantBranch(s.a, rep.Branch, s.lone)
			s.follow(s.a)
		})
	}
}
