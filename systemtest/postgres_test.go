package systemtest

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/child"
)

// postgres is a server of its own, run as an ordinary user since it refuses root.
type postgres struct {
	bin    string // where its programs are
	cred   *syscall.Credential
	socket string // directory
	server *child.Process
}

// newPostgres returns nil where PostgreSQL is not installed.
func newPostgres(t *testing.T) *postgres {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		t.Log("PostgreSQL is not installed; SQLite alone is tested")
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			t.Fatal(err)
		}
	}
	uid, _ := strconv.ParseUint(u.Uid, 10, 32)
	gid, _ := strconv.ParseUint(u.Gid, 10, 32)
	dir, err := os.MkdirTemp("", "pst-pg-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chown(dir, int(uid), int(gid)); err != nil {
		t.Fatal(err)
	}
	return &postgres{bin: filepath.Dir(found[len(found)-1]), socket: dir,
		cred: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}

// command is one of its programs, as its user.
func (p *postgres) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(p.bin, name), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.cred}
	cmd.Dir = p.socket
	return cmd
}

func (p *postgres) run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := p.command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

func (p *postgres) psql(args ...string) *exec.Cmd {
	return p.command("psql", append([]string{"-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", p.socket, "-U",
		"postgres"}, args...)...)
}

func (p *postgres) sql(t *testing.T, text string) string {
	t.Helper()
	out, err := p.psql("-c", text).CombinedOutput()
	if err != nil {
		t.Fatalf("psql: %v\n%s", err, out)
	}
	return string(out)
}

// serve starts the server and waits until it takes connections, which includes
// its recovery.
func (p *postgres) serve(t *testing.T, data string) {
	t.Helper()
	cmd := p.command("postgres", "-D", data, "-k", p.socket, "-c", "listen_addresses=", "-c", "max_wal_size=64MB")
	log, err := os.Create(filepath.Join(t.TempDir(), "postgres.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	t.Cleanup(func() {
		if b, err := os.ReadFile(log.Name()); err == nil && t.Failed() {
			t.Logf("PostgreSQL:\n%s", b)
		}
	})
	if p.server, err = child.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	until(t, time.Minute, "PostgreSQL serves", func() error { return p.psql("-c", "SELECT 1").Run() })
}

func (p *postgres) load(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	p.create(t, dir)
	p.sql(t, "CREATE TABLE t (n INTEGER PRIMARY KEY, pad TEXT)")
	return p.psql()
}

// create makes a database in a directory, and serves it.
func (p *postgres) create(t *testing.T, dir string) {
	t.Helper()
	data := filepath.Join(dir, "pg")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(data, int(p.cred.Uid), int(p.cred.Gid)); err != nil {
		t.Fatal(err)
	}
	p.run(t, "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--no-locale", "--encoding=UTF8",
		"--data-checksums")
	p.serve(t, data)
}

func (p *postgres) verify(t *testing.T, dir string) []int {
	t.Helper()
	p.recover(t, dir)
	if _, err := os.Stat(filepath.Join(p.bin, "pg_amcheck")); err == nil {
		p.amcheck(t)
	}
	return numbers(t, p.sql(t, "SELECT n FROM t ORDER BY n"))
}

// amcheck holds all tables and indexes against each other.
func (p *postgres) amcheck(t *testing.T) {
	t.Helper()
	p.run(t, "pg_amcheck", "-h", p.socket, "-U", "postgres", "--install-missing", "--heapallindexed", "-d", "postgres")
}

// recover serves what a server that died has left in a directory.
func (p *postgres) recover(t *testing.T, dir string) {
	t.Helper()
	data := filepath.Join(dir, "pg")
	if err := os.Remove(filepath.Join(data, "postmaster.pid")); err != nil && !os.IsNotExist(err) {
		t.Fatal(err) // the old server's, whose process number may be in use again
	}
	p.serve(t, data)
}

// kill is SIGKILL for all of its processes at once.
func (p *postgres) kill() {
	pid := p.server.PID()
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid)) // none is none
	p.server.Kill()
	for _, c := range strings.Fields(string(children)) {
		if child, err := strconv.Atoi(c); err == nil {
			_ = syscall.Kill(child, syscall.SIGKILL)
		}
	}
	p.server = nil
}

// stop is PostgreSQL's immediate shutdown, which leaves a crash to recover from;
// its processes have sessions of their own, so that killing the first one alone
// would leave the others behind for a while.
func (p *postgres) stop() {
	if p.server != nil {
		p.server.End(syscall.SIGQUIT, 20*time.Second)
		p.server = nil
	}
}
