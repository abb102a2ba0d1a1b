package doctor

import (
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// filesBesideConnections: WAL segments, Pebble, backings, requests to stores, and what
// sessions with the journal, verbs and metrics may have.
const filesBesideConnections = 2048

// connectionsEach: both NBD sockets may have so many that have an export, and as many that
// negotiate.
const connectionsEach = 4

// files checks RLIMIT_NOFILE, of which Go takes the hard one.
func (h *Host) files(context.Context) Result {
	const check = "limit of open files"
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return failed(check, "", "%v", err)
	}
	need := uint64(filesBesideConnections + connectionsEach*h.MaxConnections)
	if l.Max < need {
		return failed(check, fmt.Sprintf("set LimitNOFILE=%d in the unit, or ulimit -Hn", need), "%d, %d may be needed",
			l.Max, need)
	}
	return ok(check, "%s", limit(l.Max)).with(map[string]any{"limit": l.Max, "needed": need})
}

// memlock: reclaim must never wait for the agent itself, so its memory is locked.
func (h *Host) memlock(context.Context) Result {
	const check = "limit of locked memory"
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l); err != nil {
		return failed(check, "", "%v", err)
	}
	const overhead = 512 << 20 // the process beside its arena
	need := uint64(h.MemoryBytes) + overhead
	if l.Max < need && !mayLock() {
		return warn(check, "set LimitMEMLOCK=infinity in the unit: memory that is paged out while the system "+
			"writes back through the agent can hang it",
			"%s, %s may be needed", limit(l.Max), size(int64(need)))
	}
	if l.Max < need {
		return ok(check, "%s, but this user may lock memory beyond it", limit(l.Max))
	}
	return ok(check, "%s", limit(l.Max))
}

// mayLock reports whether this process has CAP_IPC_LOCK.
func mayLock() bool {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&head, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_IPC_LOCK) != 0
}

func limit(n uint64) string {
	if n == unix.RLIM_INFINITY {
		return "unlimited"
	}
	return fmt.Sprint(n)
}

const slowStartFile = "/proc/sys/net/ipv4/tcp_slow_start_after_idle"

// slowStart says what a connection forgets while it is idle.
func (h *Host) slowStart(context.Context) Result { return h.judgeSlowStart(slowStartFile) }

func (h *Host) judgeSlowStart(file string) Result {
	const check = "TCP slow start after idle"
	b, err := os.ReadFile(file)
	switch {
	case err != nil:
		return ok(check, "this kernel does not tell")
	case strings.TrimSpace(string(b)) == "0":
		return ok(check, "off: a connection keeps its window while it is idle")
	case !h.Remote:
		return ok(check, "on, which does not matter: no target is reached over the network")
	}
	return warn(check, "sysctl net.ipv4.tcp_slow_start_after_idle=0, for a lag of one round trip after a pause as well",
		"on: after a pause a PUT of 64 KiB takes about 3 round trips and one of 1 MiB about 7, instead of one")
}
