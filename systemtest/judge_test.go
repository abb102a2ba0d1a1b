package systemtest

import (
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/child"
	"github.com/pollux-dr/pollux/internal/nbdclient"
)

// TestWriteOrderJudge puts QEMU's own write log between the client and us. What
// is restored, newest or at any LSN, must be what a replay of some prefix of
// that log gives; the newest one reaches at least to the last flush that was
// reported durable.
func TestWriteOrderJudge(t *testing.T) {
	r := newRand(t)
	s := newSite(t, siteConf{})
	s.mustStart()
	s.volume("g", "v", "16MiB")
	j := newJudge(t, s)
	j.run(r)
	durable := s.group("g").DurableLSN
	s.agent.Kill()
	<-j.done
	j.daemon.Kill()

	log, err := readBlkLog(j.log)
	if err != nil {
		t.Fatal(err)
	}
	known := prefixes(log, exactBytes)
	if n := countFlushes(log); n < len(j.flushes) || n > len(j.flushes)+1 {
		t.Fatalf("QEMU logged %d flushes, %d were answered", n, len(j.flushes))
	}
	flushed := flushIndex(log, j.durableFlush(durable))
	k := j.prefixOf(log, known, "")
	if k < flushed {
		t.Errorf("the newest twin is the log's first %d entries; the flush at entry %d was reported durable",
			k, flushed)
	}
	last := s.storeLastLSN("v")
	for range 8 {
		j.prefixOf(log, known, strconv.FormatUint(r.Uint64N(last+1), 10))
	}
	t.Logf("%d entries, newest twin is a prefix of %d, last durable flush at %d", len(log), k, flushed)
}

// judge is a qemu-storage-daemon that logs and passes on.
type judge struct {
	t      *testing.T
	site   *site
	daemon *child.Process
	log    string
	conn   *nbdclient.Conn
	done   chan struct{}

	flushes []uint64 // LSN that each answered flush covers
	dirty   bool     // something was written since: QEMU leaves out other flushes
}

func newJudge(t *testing.T, s *site) *judge {
	t.Helper()
	qsd := tool(t, "qemu-storage-daemon", "qemu-system-common")
	j := &judge{t: t, site: s, log: filepath.Join(s.dir, "writes.log"), done: make(chan struct{})}
	if err := os.WriteFile(j.log, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(s.shm, "judge.sock")
	cmd := exec.Command(qsd,
		"--blockdev", "driver=nbd,node-name=pollux,export=v,discard=unmap,server.type=unix,server.path="+s.nbdSocket(),
		"--blockdev", "driver=file,node-name=log,filename="+j.log,
		"--blockdev", "driver=blklogwrites,node-name=judge,file=pollux,log=log,log-sector-size=512,discard=unmap",
		"--nbd-server", "addr.type=unix,addr.path="+socket,
		"--export", "type=nbd,id=e,node-name=judge,name=judge,writable=on")
	cmd.Stderr = os.Stderr
	var err error
	if j.daemon, err = child.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(j.daemon.Kill)
	until(t, 20*time.Second, "qemu-storage-daemon serves", func() error {
		var err error
		j.conn, err = nbdclient.Dial(t.Context(), "nbd+unix:///judge?socket="+socket, nil)
		return err
	})
	t.Cleanup(func() { _ = j.conn.Close() })
	return j
}

// run writes in the background, one request at a time so that the log's order
// is the volume's, and returns while it still writes.
func (j *judge) run(r *rand.Rand) {
	j.t.Helper()
	writes := rand.New(rand.NewPCG(r.Uint64(), 0))
	enough := make(chan struct{})
	go func() {
		defer close(j.done)
		buf := make([]byte, 64<<10)
		for n := 0; ; n++ {
			if n == 3000 {
				close(enough)
			}
			if j.request(writes, buf) != nil {
				return
			}
		}
	}()
	select {
	case <-enough:
	case <-j.done:
		j.t.Fatal("qemu-storage-daemon or the agent ended")
	case <-time.After(time.Minute):
		j.t.Fatal("no 3000 requests within a minute")
	}
	time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond) // more load
}

func (j *judge) request(r *rand.Rand, buf []byte) error {
	ctx := context.Background()
	if r.IntN(25) == 0 && j.dirty {
		j.dirty = false
		if err := j.conn.Flush(ctx); err != nil {
			return err
		}
		st, err := j.site.tryStatus()
		if err == nil {
			j.flushes = append(j.flushes, st.Groups[0].LastLSN)
		}
		return err
	}
	j.dirty = true
	n := 512 * (1 + r.IntN(64)) // below what we split into several records
	o := op{n: n, off: 512 * r.Int64N((exactBytes-int64(n))/512), seed: r.Uint64()}
	switch p := r.IntN(20); {
	case p == 0:
		return j.conn.Zero(ctx, o.off, int64(n), 0)
	case p == 1:
		return j.conn.Trim(ctx, o.off, int64(n), 0)
	}
	// No FUA: QEMU would make it a write and a flush, and flushes are counted.
	return j.conn.WriteAt(ctx, o.fill(buf), o.off, o.flags)
}

// durableFlush counts the flushes up to the last one that was durable.
func (j *judge) durableFlush(durable uint64) int {
	n := 0
	for i, lsn := range j.flushes {
		if lsn <= durable {
			n = i + 1
		}
	}
	return n
}

func countFlushes(log []blkEntry) (n int) {
	for i := range log {
		if log[i].flush {
			n++
		}
	}
	return n
}

// flushIndex is the number of entries up to the log's n-th flush.
func flushIndex(log []blkEntry, n int) int {
	for i := range log {
		if n == 0 {
			return i
		}
		if log[i].flush {
			n--
		}
	}
	return len(log)
}

// prefixOf restores a point and finds the prefix of the log that it equals.
func (j *judge) prefixOf(log []blkEntry, known map[uint64]int, at string) int {
	j.t.Helper()
	got, lsn := j.site.restore("v", at)
	k, ok := known[fingerprint(got, 0, int64(len(got)))]
	if !ok {
		j.t.Fatalf("the twin at LSN %d equals no prefix of QEMU's log", lsn)
	}
	img := make([]byte, len(got))
	for i := range k {
		log[i].apply(img)
	}
	sameBytes(j.t, "twin against a replay of QEMU's log", got, img)
	return k
}
