package systemtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/internal/faultproxy"
	"github.com/pollux-dr/pollux/internal/nbdclient"
	"github.com/pollux-dr/pollux/internal/s3test"
)

// imaged is a volume with its model: the image, and what it was at some points.
type imaged struct {
	t     *testing.T
	s     *site
	group string
	name  string
	image []byte
	at    map[string][]byte // by bookmark or LSN
}

// overwrite does n random writes at depth one, and a flush.
func (v *imaged) overwrite(c *nbdclient.Conn, r *rand.Rand, n int) {
	v.t.Helper()
	for range n {
		size := (1 + r.Int64N(8)) * 4096
		off := r.Int64N(int64(len(v.image))-size) &^ 4095
		data := v.image[off : off+size]
		for i := 0; i < len(data); i += 8 { // half of it compressible
			for k := range 4 {
				data[i+k] = byte(r.Uint32())
			}
		}
		if err := c.WriteAt(v.t.Context(), data, off, 0); err != nil {
			v.t.Fatal(err)
		}
	}
	if err := c.Flush(v.t.Context()); err != nil {
		v.t.Fatal(err)
	}
}

// mark remembers the image under a bookmark.
func (v *imaged) mark(name string) {
	v.t.Helper()
	v.s.verb("bookmark", "add", name, "--group", v.group)
	v.at[name] = bytes.Clone(v.image)
}

// exact remembers the image under the present LSN.
func (v *imaged) exact() {
	v.at[fmt.Sprint(v.s.group(v.group).LastLSN)] = bytes.Clone(v.image)
}

func (v *imaged) check(points ...string) {
	v.t.Helper()
	for _, at := range points {
		got, _ := v.s.restore(v.name, at)
		want := v.at[at]
		if at == "" {
			want = v.image
		}
		sameBytes(v.t, fmt.Sprintf("%s at %q", v.name, at), got, want)
	}
}

// TestCatchUp takes the store away while a volume is overwritten again and again,
// and gives it back over a slow link. The backlog drains folded, the agent is killed
// on the way, and every bookmark, the newest point, and every write of a group that
// wants every write are there.
func TestCatchUp(t *testing.T) {
	r := newRand(t)
	srv := startStore(t, s3test.VersityGW)
	proxy, err := faultproxy.NewHTTP(strings.TrimPrefix(srv.Endpoint, "http://"), r.Uint64())
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	s := newSite(t, s3Conf(srv, "http://"+proxy.Addr()))
	s.mustStart()
	s.volume("g", "v", "8MiB")
	s.verb("group", "create", "all", "--pitr", "every-write")
	s.verb("volume", "create", "w", "--group", "all", "--size", "16MiB")
	v := &imaged{t, s, "g", "v", make([]byte, 8<<20), map[string][]byte{}}
	w := &imaged{t, s, "all", "w", make([]byte, 16<<20), map[string][]byte{}}
	cv, cw := s.dial("v"), s.dial("w")
	s.drained("g", time.Minute)

	proxy.Set(faultproxy.Faults{Refuse: true})
	shipped := s.status().Targets[0].ShippedBytes
	written := 0
	for i := range 8 {
		v.overwrite(cv, r, 1000)
		w.overwrite(cw, r, 20)
		written += 1000 * 18 << 10
		switch i {
		case 2, 5:
			v.mark(fmt.Sprint("b", i))
		case 6:
			w.exact()
		}
	}
	const inside = 4567 // no bookmark: it lies in a fold

	proxy.Set(faultproxy.Faults{BytesPerSecond: 8 << 20})
	until(t, time.Minute, "a fold is there", func() error {
		if st := s.status().Targets[0]; st.ShippedBytes == shipped || st.FoldedFrom == 0 {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	if !strings.Contains(s.pollux("status").stdout, "MiB to ") {
		t.Error("the status does not tell of folds")
	}
	first := s.status().Targets[0]
	s.agent.Kill() // SIGKILL
	s.mustStart()
	s.drained("g", 2*time.Minute)
	s.drained("all", 2*time.Minute)
	rest := s.status().Targets[0]
	total := first.ShippedBytes - shipped + rest.ShippedBytes
	t.Logf("%d MiB written, at most %d MiB shipped; folded %d to %d MiB, and %d to %d after the kill",
		written>>20, total>>20, first.FoldedFrom>>20, first.FoldedTo>>20, rest.FoldedFrom>>20, rest.FoldedTo>>20)
	if from, to := first.FoldedFrom+rest.FoldedFrom, first.FoldedTo+rest.FoldedTo; to*2 > from ||
		total*2 > int64(written) {
		t.Errorf("%d bytes shipped for %d written; %d folded to %d", total, written, from, to)
	}
	proxy.Set(faultproxy.Faults{})
	v.check("", "b2", "b5")
	for at := range w.at {
		w.check(at)
	}
	w.check("")
	o := s.pollux(append([]string{"restore", "v", "-o", s.dir + "/none", "--json", "--at", fmt.Sprint(inside)},
		s.storeArgs()...)...)
	wantError(t, "a point in a fold", o, fail.NotFound, "folded", "LSN")
	s.checkFolds(t)
	if out := s.pollux(append([]string{"points", "v"}, s.storeArgs()...)...); out.code != 0 ||
		!strings.Contains(out.stdout, "  folded: ") || !strings.Contains(out.stdout, "bookmark b5") {
		t.Errorf("%s%s", out.stdout, out.stderr)
	}
}

// checkFolds reads every byte of the log: folds are of the group that allows them
// only, and nothing is damaged.
func (s *site) checkFolds(t *testing.T) {
	t.Helper()
	out := s.pollux(append([]string{"dump", "log", "--json"}, s.storeArgs()...)...)
	var log struct {
		Totals struct {
			Damaged int
			Streams []struct {
				Stream string
				Folds  int
				Frames int
			}
		}
	}
	if err := json.Unmarshal([]byte(out.stdout), &log); err != nil || out.code != 0 {
		t.Fatalf("code %d: %s %v", out.code, out.stderr, err)
	}
	folding := 0
	for _, st := range log.Totals.Streams {
		if st.Folds > 0 {
			folding++
		}
	}
	if folding != 1 || len(log.Totals.Streams) != 2 || log.Totals.Damaged != 0 {
		t.Errorf("%+v", log.Totals)
	}
}
