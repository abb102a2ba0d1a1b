package systemtest

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/control/failback"
	"github.com/pollux-dr/pollux/internal/nbdclient"
)

// pgCircle is PostgreSQL on a volume of two sites' journal, and what its clients know.
type pgCircle struct {
	t      *testing.T
	seat   *place
	pg     *postgres
	ledger *ledger
	dir    string // where the volume is mounted
	umount func()
}

// TestPostgresCircle: PostgreSQL goes round the circle under load, with commits at both sites. Its
// site is lost with ack: remote, and no commit is; it is handed back while it runs, and none is lost
// either; its site is lost with ack: local while it cannot reach the stores: then exactly the commits
// after a moment are lost, and the former seat still has them as a branch. Each time it recovers by
// itself, amcheck finds nothing, and all balances agree.
func TestPostgresCircle(t *testing.T) {
	t.Parallel()
	r := newRand(t)
	seoul, busan := newCircle(t)
	pg := newPostgres(t)
	if pg == nil {
		t.Fatal("PostgreSQL is not installed: apt-get install postgresql")
	}
	began := time.Now()
	said := func(what string) { t.Logf("%6.1f s: %s", time.Since(began).Seconds(), what) }
	seoul.mustStart()
	seoul.volume("g", "db", "384MiB")
	x := &pgCircle{t: t, pg: pg, seat: seoul}
	x.dir, x.umount = seoul.ext4("db")
	pg.create(t, x.dir)
	x.ledger = newLedger(t, pg)
	busan.follow()
	said("Seoul serves, Busan follows")

	seoul.verb("group", "set", "g", "--ack", "remote")
	load := x.ledger.run(t, r)
	load.confirmed(t, 100)
	x.lose(load)
	busan.takeOver()
	x.goOn(busan, 0)
	said("Busan goes on, nothing is lost")

	load = x.ledger.run(t, r)
	x.back(seoul)
	load.confirmed(t, 60)
	busan.handOver(seoul) // with the clients at work, and the filesystem mounted
	x.ends(load)
	x.goOn(seoul, 0)
	said("Seoul goes on, nothing is lost")

	seoul.verb("group", "set", "g", "--ack", "local")
	load = x.ledger.run(t, r)
	load.confirmed(t, 50)
	seoul.cutOff(true)
	load.confirmed(t, load.count()+50)
	x.lose(load)
	rep := busan.takeOver()
	if lost := x.goOn(busan, load.id); lost < 40 {
		t.Errorf("%d commits are lost: what was made without a store shows nothing", lost)
	}
	said(fmt.Sprintf("Busan goes on from LSN %d", rep.Groups[0].LSN))
	load = x.ledger.run(t, r)
	load.confirmed(t, 20)
	x.ends(load)

	seoul.cutOff(false)
	x.branch(seoul, x.back(seoul), load.id)
	said("the branch at Seoul has what was lost")
}

// lose kills the seat, and everything on it.
func (x *pgCircle) lose(l *load) {
	x.t.Helper()
	x.seat.agent.Kill()
	x.pg.kill()
	l.stop()
	x.umount()
}

// ends waits until the clients have lost their server, whose device was taken away.
func (x *pgCircle) ends(l *load) {
	x.t.Helper()
	x.pg.stop()
	l.stop()
	x.umount()
}

// goOn has PostgreSQL recover at a new seat; see ledger.kept.
func (x *pgCircle) goOn(p *place, except int) (lost int) {
	x.t.Helper()
	x.seat = p
	x.dir, x.umount = p.mounted("db", p.uri("db"), false)
	return x.ledger.kept(x.t, x.ledger.read(x.t, x.dir), except)
}

// back brings a former seat back: it finds out by itself, serves nobody, and follows.
func (x *pgCircle) back(p *place) *failback.Report {
	x.t.Helper()
	if !p.agent.Running() {
		p.restart()
	}
	p.isSuperseded()
	if _, err := nbdclient.Dial(x.t.Context(), p.uri("db"), nil); err == nil {
		x.t.Errorf("%s, a former seat, serves", p.name)
	}
	return p.failBack()
}

// branch has PostgreSQL recover on what only a former seat had: all that was confirmed there, and
// nothing of what the new one has made since.
func (x *pgCircle) branch(p *place, rep *failback.Report, since int) {
	x.t.Helper()
	m := p.mountBy("branch", "mount", rep.Branch, "db", "--writable", "-c", p.config(), "--cache", p.dir, "--socket",
		filepath.Join(p.shm, "branch.sock"))
	defer m.end(x.t)
	dir, umount := p.mounted("db", m.said["uri"].(string), false)
	defer umount()
	have := x.ledger.read(x.t, dir)
	x.pg.stop()
	lost := x.ledger.kept(x.t, have, since)
	for k := range have {
		if k[0] == since {
			x.t.Errorf("the branch has transaction %v of the new seat", k)
		}
	}
	if lost == 0 {
		x.t.Error("the new seat has confirmed nothing")
	}
}
