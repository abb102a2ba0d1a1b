package systemtest

import (
	"os"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/faultproxy"
)

// loss is a way in which a site is lost to the others.
type loss struct {
	name    string
	frozen  bool              // its agent is; otherwise it goes on, and reaches its own store alone
	network faultproxy.Faults // what becomes of requests between the sites
	cold    bool              // the other site has no standby, and no state
}

var losses = []loss{
	{"frozen, in the dark, warm", true, faultproxy.Faults{Stall: true}, false},
	{"parted, refused, cold", false, faultproxy.Faults{Refuse: true}, true},
	{"parted, in the dark, warm", false, faultproxy.Faults{Stall: true}, false},
	{"frozen, in the dark, cold", true, faultproxy.Faults{Stall: true}, true},
}

// TestLostSiteComesBack loses the seat to the other site in each way, which takes over by force, and
// both go on: what the former seat acknowledged under ack: remote is at the new one, what it still
// uploads counts for nothing, and once it is back it is Superseded and says what never left it. Then
// it fails back, killed on the way again and again, follows, and the next loss is the other site's.
func TestLostSiteComesBack(t *testing.T) {
	t.Parallel()
	x := newRegions(t, newRand(t), []string{"seoul", "busan"}, "seoul", "busan")
	x.begin()
	seat, other := x.hosts[0], x.hosts[1]
	other.mustStart()
	some := losses
	if *regionRounds == 1 { // one of each kind; the others take their turns in other runs
		some = losses[2*x.r.IntN(2):][:2]
	}
	for range *regionRounds {
		for _, l := range some {
			began := time.Now()
			x.lose(seat, other, l)
			seat, other = other, seat
			t.Logf("%s: %.1f s", l.name, time.Since(began).Seconds())
		}
	}
}

// failoverLimit is how long a forced failover may take on a loaded machine. What it would wait for at
// the lost site has no end.
const failoverLimit = time.Minute

func (x *regions) lose(seat, other *host, l loss) {
	t := x.t
	t.Helper()
	x.run()
	x.progress(40)
	x.follows(other, seat.durable())
	x.phase("standby follows")
	if l.cold {
		other.stop()
		if err := os.RemoveAll(other.conf.state); err != nil {
			t.Fatal(err)
		}
	}
	if l.frozen { // an upload is on its way, and arrives behind the fence
		x.cut(other.region, faultproxy.Faults{Delay: time.Duration(x.r.IntN(300)) * time.Millisecond}, seat)
		x.progress(5)
		seat.freeze()
	} else {
		x.cut(other.region, l.network, seat)
	}
	x.cut(seat.region, l.network, other)
	least := map[string]uint64{"far": x.all[1].flushed.Load()}
	before := other.links[seat.region].Seen()
	if l.cold { // of the warm one, TestStandbyTakesOver kills both the verb and the standby
		for range 3 {
			x.killed(other, "failover", "--force", "--yes", "-c", other.config())
		}
	}
	took := other.failOver()
	if l.cold {
		if n := other.links[seat.region].Seen() - before; n != 0 {
			t.Errorf("the failover asked the lost site %d times", n)
		}
		other.mustStart()
	}
	x.phase("failover")
	if took > failoverLimit {
		t.Errorf("the failover took %v", took)
	}
	old, runs := x.all, x.runs
	x.all = nil
	for _, w := range old {
		x.all = append(x.all, w.goOnAt(other.site, least[w.group]))
	}
	x.run()
	x.progress(30)
	if !l.frozen { // near goes on at both sites
		old[0].progress(30)
	}
	other.verb(append([]string{"gc", "--grace", "0s"}, other.storeArgs()...)...)

	x.phase("both go on")
	x.heal()
	if l.frozen {
		seat.thaw()
	}
	x.ended(runs, true)
	x.superseded(seat, old, x.all)
	if f := old[1].flushed.Load(); f > x.all[1].h.saved[0].lsn {
		t.Errorf("the former seat answered a flush of LSN %d under ack: remote, and the journal went on from %d", f,
			x.all[1].h.saved[0].lsn)
	}
	x.phase("superseded")
	x.ended(x.runs, false)
	x.promise(other)
	x.phase("protected")
	x.run()
	x.progress(10)
	x.ended(x.runs, false)
	x.holds(other, "seoul", "busan")
	x.phase("compared")
	x.failBack(seat, 3)
	x.phase("failed back")
	x.follows(seat, lastOf(x.all))
}

// lastOf are the LSNs that the models end at, by group.
func lastOf(all []*writer) map[string]uint64 {
	out := map[string]uint64{}
	for _, w := range all {
		out[w.group] = w.h.lsn
	}
	return out
}
