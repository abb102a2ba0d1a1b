package standby

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/replicator/logtest"
	"github.com/pollux-dr/pollux/replicator/objstore"
	"github.com/pollux-dr/pollux/replicator/state"
)

// BenchmarkApply follows a log on the disk into an image on the disk, and says how many CPU
// seconds a GiB takes, the kernel's included.
func BenchmarkApply(b *testing.B) {
	for _, x := range []struct {
		name    string
		random  bool
		size    int
		records int
	}{{"seq64k", false, 64 << 10, 4}, {"rand4k", true, 4 << 10, 16}, {"rand4k-flushed", true, 4 << 10, 1}} {
		b.Run(x.name, func(b *testing.B) { benchApply(b, x.random, x.size, x.records) })
	}
}

func benchApply(b *testing.B, random bool, size, records int) {
	for b.Loop() {
		b.StopTimer()
		r := rand.New(rand.NewPCG(1, 2))
		dir := b.TempDir()
		store, err := objstore.Open(b.Context(), "file://"+filepath.Join(dir, "store"), objstore.Options{})
		if err != nil {
			b.Fatal(err)
		}
		l := logtest.New(b, store)
		l.Volume("v", benchVolume)
		l.Frame(l.Write("v", 0, make([]byte, 4096)))
		l.Segment()
		s, err := Open(Options{Store: store, Dir: filepath.Join(dir, "standby"),
			Want: func(*state.State) []Volume { return []Volume{{Name: "v", Path: filepath.Join(dir, "image")}} }})
		if err != nil {
			b.Fatal(err)
		}
		follow(b, s)
		if err := s.bring(b.Context(), "v"); err != nil {
			b.Fatal(err)
		}
		// An image that is written to has its blocks.
		if err := os.WriteFile(filepath.Join(dir, "image"), make([]byte, benchVolume), 0o600); err != nil {
			b.Fatal(err)
		}
		benchLog(l, r, random, size, records)
		syscall.Sync()
		cpu := processCPU(b)
		b.StartTimer()
		follow(b, s)
		b.ReportMetric((processCPU(b)-cpu)*float64(1<<30)/benchBytes, "cpu-s/GiB")
		if st := s.cur.stream(l.Stream); st.Applied != l.Point {
			b.Fatalf("applied %v of %v", st.Applied, l.Point)
		}
		s.closeFiles()
	}
}

const benchVolume, benchBytes = 512 << 20, 256 << 20

func follow(b *testing.B, s *Standby) {
	for busy := true; busy; {
		var err error
		if busy, err = s.step(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// benchLog writes benchBytes, in segments of 4 MiB.
func benchLog(l *logtest.Log, r *rand.Rand, random bool, size, records int) {
	data := make([]byte, 1<<20) // compresses to a half
	for i := 0; i < len(data); i += 128 {
		for k := range 64 {
			data[i+k] = byte(r.Uint32())
		}
	}
	in, at := 0, int64(0)
	for written := 0; written < benchBytes; written += size * records {
		changes := make([]change.Change, records)
		for i := range changes {
			if at += int64(size); at+int64(size) > benchVolume {
				at = 0
			}
			if random {
				at = r.Int64N(int64(benchVolume/size)) * int64(size)
			}
			from := r.IntN(len(data)-size) &^ 511
			changes[i] = l.Write("v", at, data[from:][:size])
		}
		l.Frame(changes...)
		if in += size * records; in >= 4<<20 {
			l.Segment()
			in = 0
		}
	}
	l.Segment()
}

// processCPU is what this process has used, in seconds.
func processCPU(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}
