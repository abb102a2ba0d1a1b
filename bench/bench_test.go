package bench

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pollux-dr/pollux/internal/fail"
	"github.com/pollux-dr/pollux/replicator/objstore"
)

func TestStatistics(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[99-i] = float64(i + 1)
	}
	if got, want := distribution(hundred), (Dist{P50: 50, P99: 99, Max: 100}); got != want {
		t.Errorf("distribution of 1..100: %v, want %v", got, want)
	}
	if got, want := distribution([]float64{7}), (Dist{P50: 7, P99: 7, Max: 7}); got != want {
		t.Errorf("distribution of one: %v, want %v", got, want)
	}
	if got := distribution(nil); got != (Dist{}) {
		t.Errorf("distribution of none: %v", got)
	}
	for _, c := range []struct {
		in   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 3, 2}, 2.5}} {
		if got := median(c.in); got != c.want {
			t.Errorf("median of %v: %v, want %v", c.in, got, c.want)
		}
	}
	if ratio(1, 0) != 0 || ratio(1, 2) != 0.5 {
		t.Error("ratio")
	}
}

// A pair's ratio counts, not the ratio of medians: the machine's speed changes
// from round to round.
func TestWorkloadMedians(t *testing.T) {
	w := Workload{Rounds: []Round{
		{ProtectedIOPS: 50, UnprotectedIOPS: 100, NBDKitIOPS: 100, Ratio: 0.5, RatioWithDrain: 0.4,
			ProtectedBytes: 1 << 30, AgentCPUSeconds: 1},
		{ProtectedIOPS: 90, UnprotectedIOPS: 100, NBDKitIOPS: 200, Ratio: 0.9, RatioWithDrain: 0.8,
			ProtectedBytes: 1 << 30, AgentCPUSeconds: 3},
		{ProtectedIOPS: 60, UnprotectedIOPS: 10, NBDKitIOPS: 10, Ratio: 6, RatioWithDrain: 5, ProtectedBytes: 1 << 30,
			AgentCPUSeconds: 2},
	}}
	w.sum(true, 3<<30)
	if w.Ratio != 0.9 || w.RatioWithDrain != 0.8 || w.ProtectedIOPS != 60 || *w.UnprotectedOfNBDKit != 1 {
		t.Errorf("medians: %+v", w)
	}
	if w.MovedBytes != 3<<30 || w.ExceedsMemory || w.AgentCPUSecondsGiB != 2 {
		t.Errorf("sums: %+v", w)
	}
	w = Workload{Rounds: w.Rounds}
	if w.sum(false, 1); w.NBDKitIOPS != nil || !w.ExceedsMemory {
		t.Errorf("without nbdkit: %+v", w)
	}
}

func testCorpus(t *testing.T) *corpus {
	dir := t.TempDir()
	for i, n := range []int{5000, 3 << 20, 3 << 20} {
		content := bytes.Repeat([]byte{byte('a' + i)}, n)
		if err := os.WriteFile(filepath.Join(dir, string(rune('a'+i))), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := loadCorpus(dir, 8<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

func TestCorpus(t *testing.T) {
	c := testCorpus(t)
	want := append(bytes.Repeat([]byte{'a'}, 5000), make([]byte, 8192-5000)...)
	if !bytes.Equal(c.data[:8192], want) || c.data[8192] != 'b' {
		t.Error("a file is not padded to whole blocks")
	}
	if used := 8192 + 6<<20; !bytes.Equal(c.data[used:used+8192], want) {
		t.Error("what is left does not repeat the beginning")
	}
	if _, err := loadCorpus(t.TempDir(), 8<<20); !fail.Is(err, fail.Invalid) {
		t.Errorf("an empty tree: %v", err)
	}
	if _, err := loadCorpus(filepath.Join(t.TempDir(), "no"), 8<<20); !fail.Is(err, fail.NotFound) {
		t.Errorf("no tree: %v", err)
	}
}

func TestGenerator(t *testing.T) {
	const size = 16 << 20
	data := testCorpus(t)
	for _, c := range cells {
		a := newGenerator(c, size, data, random(7, c.name, 1))
		b := newGenerator(c, size, data, random(7, c.name, 1))
		other := newGenerator(c, size, data, random(8, c.name, 1))
		differ, last := false, int64(-1)
		for range 1000 {
			off, p := a.write()
			boff, bp := b.write()
			ooff, _ := other.write()
			differ = differ || off != ooff
			if off != boff || &p[0] != &bp[0] || len(p) != c.bytes {
				t.Fatalf("%s: the same seed gives other writes", c.name)
			}
			if off%int64(c.bytes) != 0 || off < 0 || off+int64(c.bytes) > size {
				t.Fatalf("%s: write at %d", c.name, off)
			}
			if c.sequential && last >= 0 && off != (last+int64(c.bytes))%size {
				t.Fatalf("%s: %d after %d", c.name, off, last)
			}
			last = off
		}
		if !differ && !c.sequential {
			t.Errorf("%s: another seed gives the same writes", c.name)
		}
	}
}

func TestLags(t *testing.T) {
	start := time.Now()
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	acks := []time.Time{at(0), at(1), at(2), at(3), at(4)}
	seen := []progress{{at(1), 10}, {at(5), 11}, {at(5), 11}, {at(7), 14}}
	// Writes have the LSNs 11 to 15; nobody saw 15 become durable.
	if d := cmp.Diff([]float64{5, 6, 5, 4}, lags(10, acks, seen)); d != "" {
		t.Error(d)
	}
	if got := lags(10, []time.Time{at(3)}, []progress{{at(2), 11}}); got[0] != 0 {
		t.Errorf("durable before the acknowledgement was read: lag %v", got)
	}
}

func TestSampleSizes(t *testing.T) {
	sizes := []int64{1, 2, 3, 4, 5}
	got := sampleSizes(sizes, 3, random(1, "x", 0))
	if len(got) != 3 || got[0] == got[1] || got[1] == got[2] || got[0] == got[2] {
		t.Errorf("sample %v", got)
	}
	if d := cmp.Diff([]int64{1, 2, 3, 4, 5}, sizes); d != "" {
		t.Error("the sizes were changed: " + d)
	}
	if got := sampleSizes(sizes, 9, random(1, "x", 0)); len(got) != 5 {
		t.Errorf("all: %v", got)
	}
	if p50, p99 := sizePercentiles(sizes); p50 != 3 || p99 != 5 {
		t.Errorf("percentiles %v, %v", p50, p99)
	}
}

func TestShares(t *testing.T) {
	objects := []objstore.Info{{Bytes: 10}, {Bytes: 30}, {Bytes: 0}, {Bytes: 60}}
	if d := cmp.Diff([]int64{0, 100, 400, 400, 1000}, shares(objects, 1000)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]int64{0}, shares(nil, 1000)); d != "" {
		t.Error(d)
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{Seconds: -1}, {Size: 1}, {Memory: 1}, {Rounds: -1}, {Size: 16<<20 + 4096}} {
		if err := o.complete(1); !fail.Is(err, fail.Invalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// TestWrite runs the smallest benchmark with the real program.
func TestWrite(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "pollux")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/pollux-dr/pollux/cmd/pollux").
		CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// Sockets need short paths.
	work, err := os.MkdirTemp("", "pb")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(work)
	store := filepath.Join(work, "store")
	if err := os.Mkdir(store, 0o700); err != nil {
		t.Fatal(err)
	}
	rep, err := Write(t.Context(), Options{Store: "file://" + store, Dir: work, Program: program, Size: 16 << 20,
		Memory: 4 << 20, Seconds: 0.1, Rounds: 1, RequestRate: 0, Version: "test", Say: func(s string) { t.Log(s) }})
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range rep.Workloads {
		if w.ProtectedIOPS <= 0 || w.UnprotectedIOPS <= 0 || w.Ratio <= 0 || w.RatioWithDrain <= 0 ||
			w.RatioWithDrain > w.Ratio {
			t.Errorf("%+v", w)
		}
	}
	checkWriteJSON(t, rep)
	for _, d := range []string{work, store} {
		left, err := os.ReadDir(d)
		if err != nil || (d == store && len(left) != 0) || (d == work && len(left) != 1) {
			t.Errorf("left in %s: %v, %v", d, left, err)
		}
	}
}

// checkWriteJSON looks for the names that scripts rely on.
func checkWriteJSON(t *testing.T, rep *WriteReport) {
	b, err := json.Marshal(rep)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Seed      *uint64
		Machine   map[string]any
		Workloads []map[string]any
	}
	if err := json.Unmarshal(b, &got); err != nil || got.Seed == nil || len(got.Machine) == 0 ||
		len(got.Workloads) != 4 {
		t.Fatalf("%v\n%s", err, b)
	}
	for _, name := range []string{"name", "protected_iops", "unprotected_iops", "ratio", "ratio_with_drain",
		"nbdkit_iops"} {
		if _, ok := got.Workloads[0][name]; !ok {
			t.Errorf("no %q in %s", name, b)
		}
	}
}
