package systemtest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/child"
	"github.com/pollux-dr/pollux/internal/faultproxy"
)

// handing is a hand-over from one host to another, at which a fault strikes.
type handing struct {
	*regions
	from, to *host
	verb     *child.Process
}

// handOverFaults strike at a random moment of a hand-over. What dies is started again by its unit.
var handOverFaults = []struct {
	name   string
	strike func(x *handing)
}{
	{"seat killed", func(x *handing) { x.from.agent.Kill() }},
	{"standby killed", func(x *handing) { x.to.agent.Kill() }},
	{"verb killed", func(x *handing) { x.verb.Kill() }},
	{"both killed", func(x *handing) { x.from.agent.Kill(); x.to.agent.Kill() }},
	{"store in the dark", func(x *handing) { x.dark(x.from, x.to) }},
	{"store in the dark for the seat", func(x *handing) { x.dark(x.from) }},
	{"store in the dark for the standby", func(x *handing) { x.dark(x.to) }},
	{"store refuses the seat", func(x *handing) { x.away(faultproxy.Faults{Refuse: true}, x.from) }},
	{"answers of the store are lost", func(x *handing) { x.away(faultproxy.Faults{DropReply: 0.5}, x.from, x.to) }},
	{"seat frozen", func(x *handing) { x.from.freeze(); x.pause(handOverLimit); x.from.thaw() }},
	{"standby frozen", func(x *handing) { x.to.freeze(); x.pause(handOverLimit); x.to.thaw() }},
}

// handOverLimit is short, so that faults outlast it.
const handOverLimit = 2 * time.Second

// pause is a random time, at most twice as long as limit.
func (x *handing) pause(limit time.Duration) {
	time.Sleep(time.Duration(x.r.Int64N(int64(2 * limit)))) // that is the fault
}

func (x *handing) dark(hosts ...*host) { x.away(faultproxy.Faults{Stall: true}, hosts...) }

// away does something for a while to the store whose log decides.
func (x *handing) away(f faultproxy.Faults, hosts ...*host) {
	x.cut(x.to.region, f, hosts...)
	x.pause(handOverLimit)
	x.heal()
}

// TestHandOverUnderFaults hands a journal over to the other site again and again under load, with a
// fault at some moment each time, after which the verb is repeated until it has moved. At no moment
// do both sites serve; never does neither of them for good; and no acknowledged write is lost. The
// former seat then fails back, killed on the way.
func TestHandOverUnderFaults(t *testing.T) {
	t.Parallel()
	x := newRegions(t, newRand(t), []string{"seoul", "busan"}, "seoul", "busan")
	x.begin()
	from, to := x.hosts[0], x.hosts[1]
	to.mustStart()
	order := x.r.Perm(len(handOverFaults))
	if *regionRounds == 1 {
		order = order[:3] // which they are is random: the others take their turns in other runs
	}
	for round := range *regionRounds {
		for _, i := range order {
			began := time.Now()
			h := &handing{regions: x, from: from, to: to}
			took := h.handOver(handOverFaults[i].strike)
			x.holds(to, "seoul", "busan")
			from, to = to, from
			t.Logf("round %d, %s: it took %d verbs, %.1f s", round+1, handOverFaults[i].name, took,
				time.Since(began).Seconds())
		}
	}
}

// handOver is one, and returns how many times the verb was called.
func (x *handing) handOver(strike func(x *handing)) (verbs int) {
	t := x.t
	t.Helper()
	for _, w := range x.all {
		w.marked = true // each time that I/O is held
	}
	x.run()
	x.progress(20)
	x.follows(x.to, x.from.durable())
	watch := x.watch()
	args := []string{"failover", "--planned", "--to", x.to.region, "--socket", x.from.socket()}
	x.verb = x.from.launchVerb(append(args, "--limit", handOverLimit.String(), "--wait", "10s")...)
	time.Sleep(time.Duration(x.r.IntN(1000)) * time.Millisecond) // when is random, nothing is waited for
	strike(x)

	// Whoever it is, somebody serves, without that anybody does anything.
	until(t, time.Minute, "a site serves", func() error {
		x.from.keepUp()
		x.to.keepUp()
		for _, h := range []*host{x.from, x.to} {
			if h.serves("near-v") && h.serves("far-v") {
				return nil
			}
		}
		return fmt.Errorf("neither does: %+v; %+v", x.from.groups(), x.to.groups())
	})
	verbs = 1
	until(t, 2*time.Minute, "the journal is handed over", func() error {
		x.from.keepUp()
		x.to.keepUp()
		if x.to.serves("near-v") && x.to.serves("far-v") { // and the former seat may be a standby by now
			return nil
		}
		o := x.from.pollux(args...)
		if verbs++; o.code == 0 || o.code == 10 {
			return nil
		}
		return fmt.Errorf("code %d: %s", o.code, o.stderr)
	})
	x.ended(x.runs, true)
	until(t, time.Minute, x.to.region+" serves", func() error {
		x.to.keepUp()
		if !x.to.serves("near-v") || !x.to.serves("far-v") {
			return fmt.Errorf("%+v", x.to.groups())
		}
		return nil
	})
	watch()
	old := x.all
	x.all = nil
	for _, w := range old {
		x.all = append(x.all, w.goOnWhole(x.to.site))
	}
	for _, w := range old { // that it follows by itself, the next one waits for
		if x.from.serves(w.volume) {
			t.Errorf("%s has handed volume %s over, and serves it", x.from.region, w.volume)
		}
	}
	x.promise(x.to)
	x.verb.Kill()
	return verbs
}

// watch looks at both sites all the time, until what it returns is called.
func (x *handing) watch() (stop func()) {
	ctx, cancel := context.WithCancel(x.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for a, b := x.from, x.to; ctx.Err() == nil; a, b = b, a {
			if a.serves("near-v") && b.serves("near-v") && a.serves("near-v") {
				x.t.Errorf("%s served, then %s did, and then %s again", a.region, b.region, a.region)
			}
			select {
			case <-time.After(30 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// keepUp starts the daemon again where it has ended, as its unit does.
func (h *host) keepUp() {
	h.t.Helper()
	if !h.agent.Running() {
		h.launch()
	}
}

// groups are the states of a host's groups, for messages.
func (h *host) groups() (out []string) {
	st, err := h.tryStatus()
	if err != nil {
		return []string{err.Error()}
	}
	if st.Standby != nil {
		return []string{fmt.Sprintf("standby: %+v", st.Standby)}
	}
	for _, g := range st.Groups {
		out = append(out, g.Name+" "+g.State+": "+g.Reason)
	}
	return out
}
