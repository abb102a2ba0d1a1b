package systemtest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/child"
)

const (
	ledgerClients  = 3
	ledgerAccounts = 1000
)

// entry is a transaction that a client has made, with its row in the ledger.
type entry struct {
	load, client, n int
	amount          int
	began, returned time.Time // returned is zero where no answer came
}

// ledger is what clients of a bank know of their transactions: what was asked for, what was
// confirmed, and when.
type ledger struct {
	pg *postgres

	mu      sync.Mutex
	entries []*entry
	loads   int
}

// newLedger makes the tables.
func newLedger(t *testing.T, pg *postgres) *ledger {
	t.Helper()
	pg.sql(t, fmt.Sprintf(`CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance BIGINT NOT NULL, pad TEXT);
		CREATE TABLE branches (id INTEGER PRIMARY KEY, balance BIGINT NOT NULL);
		CREATE TABLE ledger (load INTEGER, client INTEGER, n INTEGER, amount BIGINT NOT NULL, pad TEXT,
			PRIMARY KEY (load, client, n));
		CREATE INDEX ON ledger (md5(pad));
		INSERT INTO accounts SELECT i, 0, repeat('x', 80) FROM generate_series(0, %d) i;
		INSERT INTO branches VALUES (0, 0), (1, 0);`, ledgerAccounts-1))
	return &ledger{pg: pg}
}

// load is one run of all clients.
type load struct {
	*ledger
	id      int
	cancel  context.CancelFunc
	clients []*child.Process
	wg      sync.WaitGroup
}

// run starts the clients. Each makes one transaction after the other until stop, or until its
// server is gone.
func (l *ledger) run(t *testing.T, r *rand.Rand) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l.loads++
	run := &load{ledger: l, id: l.loads, cancel: cancel}
	for client := range ledgerClients {
		cmd := l.pg.psql()
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		p, err := child.Start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Kill)
		run.clients = append(run.clients, p)
		rr := rand.New(rand.NewPCG(r.Uint64(), 0))
		run.wg.Go(func() { run.client(ctx, client, rr, in, out) })
	}
	return run
}

func (r *load) client(ctx context.Context, client int, rnd *rand.Rand, in io.Writer, out io.Reader) {
	lines := bufio.NewScanner(out)
	for n := 1; ctx.Err() == nil; n++ {
		e := &entry{load: r.id, client: client, n: n, amount: rnd.IntN(2001) - 1000, began: time.Now()}
		r.mu.Lock()
		r.entries = append(r.entries, e)
		r.mu.Unlock()
		_, err := fmt.Fprintf(in, "BEGIN; UPDATE accounts SET balance = balance + %[1]d WHERE id = %[2]d; "+
			"UPDATE branches SET balance = balance + %[1]d WHERE id = %[3]d; "+
			"INSERT INTO ledger VALUES (%[4]d, %[5]d, %[6]d, %[1]d, '%[7]s'); COMMIT; SELECT %[6]d;\n", e.amount,
			rnd.IntN(ledgerAccounts), rnd.IntN(2), r.id, client, n, strings.Repeat("y", n*37%1500))
		if err != nil || !lines.Scan() || lines.Text() != fmt.Sprint(n) {
			return // whether this one was committed nobody knows
		}
		r.mu.Lock()
		e.returned = time.Now()
		r.mu.Unlock()
	}
}

// confirmed waits until n transactions of this run were.
func (r *load) confirmed(t *testing.T, n int) {
	t.Helper()
	until(t, 2*time.Minute, fmt.Sprintf("%d commits", n), func() error {
		if got := r.count(); got < n {
			return fmt.Errorf("%d so far", got)
		}
		return nil
	})
}

func (r *load) count() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.entries {
		if e.load == r.id && !e.returned.IsZero() {
			n++
		}
	}
	return n
}

// stop ends the clients, wherever they are.
func (r *load) stop() {
	r.cancel()
	for _, p := range r.clients {
		p.Kill()
	}
	r.wg.Wait()
}

// books are what a server has of the ledger.
type books map[[3]int]bool

// read recovers the database that a server has left in dir, has it checked, and reads the ledger,
// which must fit to all balances.
func (l *ledger) read(t *testing.T, dir string) books {
	t.Helper()
	l.pg.recover(t, dir)
	l.pg.amcheck(t)
	sums := l.pg.sql(t, `SELECT (SELECT sum(balance) FROM accounts), (SELECT sum(balance) FROM branches),
		(SELECT coalesce(sum(amount), 0) FROM ledger)`)
	if s := strings.Split(strings.TrimSpace(sums), "|"); len(s) != 3 || s[0] != s[1] || s[0] != s[2] {
		t.Errorf("accounts, branches and ledger do not agree: %s", sums)
	}
	amounts := map[[3]int]int{}
	for _, e := range l.entries {
		amounts[e.key()] = e.amount
	}
	have := books{}
	for _, line := range strings.Fields(l.pg.sql(t, "SELECT load, client, n, amount FROM ledger")) {
		var k [3]int
		var amount int
		if _, err := fmt.Sscanf(line, "%d|%d|%d|%d", &k[0], &k[1], &k[2], &amount); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if want, ok := amounts[k]; !ok || want != amount {
			t.Errorf("transaction %v of %d was never made", k, amount)
		}
		have[k] = true
	}
	return have
}

func (e *entry) key() [3]int { return [3]int{e.load, e.client, e.n} }

// kept wants all that was confirmed; except, if it is not 0, is a run of which only a prefix has to
// be there: a moment before which everything is, and behind which nothing. It returns how many
// confirmed transactions of that run are lost.
func (l *ledger) kept(t *testing.T, have books, except int) (lost int) {
	t.Helper()
	var newest, oldest *entry // the one that began last of those that are there, and was answered first of the lost
	for _, e := range l.entries {
		switch {
		case have[e.key()]:
			if e.load == except && (newest == nil || e.began.After(newest.began)) {
				newest = e
			}
		case e.returned.IsZero():
		case e.load != except:
			t.Errorf("transaction %v was confirmed, and is lost", e.key())
		default:
			if lost++; oldest == nil || e.returned.Before(oldest.returned) {
				oldest = e
			}
		}
	}
	if newest != nil && oldest != nil && oldest.returned.Before(newest.began) {
		t.Errorf("no prefix: %v, which began later than %v was confirmed, is there, and that is not", newest.key(),
			oldest.key())
	}
	t.Logf("%d transactions are there, %d were confirmed, of which %d are lost", len(have), l.total(), lost)
	return lost
}

func (l *ledger) total() (n int) {
	for _, e := range l.entries {
		if !e.returned.IsZero() {
			n++
		}
	}
	return n
}
