package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/block"
)

// openForTest opens an agent on the real disk, without a journal.
func openForTest(t testing.TB, memory int64, size int64) (*Agent, block.Device) {
	t.Helper()
	dir := t.TempDir()
	shm, err := os.MkdirTemp("/dev/shm", "pollux-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(shm) })
	a, err := Open(Options{Name: "t", StateDir: filepath.Join(dir, "agent"), ArenaPath: filepath.Join(shm, "arena"),
		MemoryBytes: memory,
		Dial:        func(context.Context) (net.Conn, error) { return nil, errors.New("no journal in this test") }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close(context.Background()) })
	sc := StreamConf{ID: uuid.New(), Number: 1, Group: "g"}
	if err := a.AddStream(sc); err != nil {
		t.Fatal(err)
	}
	vc := VolumeConf{Name: "v", Number: 2, Group: "g", Stream: sc.ID, SizeBytes: size,
		Backing: filepath.Join(dir, "v.img")}
	if _, err := a.AddVolume(context.Background(), vc); err != nil {
		t.Fatal(err)
	}
	dev, err := a.Device("v")
	if err != nil {
		t.Fatal(err)
	}
	return a, dev
}

func writeDevice(t testing.TB, dev block.Device, p []byte, off int64) {
	b, err := dev.Prepare(context.Background(), len(p))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range b.Pieces() {
		p = p[copy(part, p):]
	}
	if err := dev.Write(context.Background(), b, off, false); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkWrite measures the write path below the front end.
func BenchmarkWrite(b *testing.B) {
	for _, c := range []struct {
		name  string
		bytes int
		flush int
	}{{"4k", 4 << 10, 0}, {"4k-flush1", 4 << 10, 1}, {"4k-flush32", 4 << 10, 32}, {"1m-flush16", 1 << 20, 16}} {
		b.Run(c.name, func(b *testing.B) {
			const size = 512 << 20
			_, dev := openForTest(b, 64<<20, size)
			data := make([]byte, 8<<20)
			for i := range data { // compresses about as well as files do
				data[i] = byte(rand.IntN(8)) * 31
			}
			b.SetBytes(int64(c.bytes))
			b.ResetTimer()
			for i := range b.N {
				off := int64(rand.IntN(size/c.bytes)) * int64(c.bytes)
				from := rand.IntN((len(data)-c.bytes)/4096+1) * 4096
				writeDevice(b, dev, data[from:from+c.bytes], off)
				if c.flush > 0 && i%c.flush == c.flush-1 {
					if err := dev.Flush(context.Background()); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.StopTimer()
		})
	}
}
