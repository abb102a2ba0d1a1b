package wal

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// BenchmarkAppendSync appends one entry and syncs it, on the real disk; with
// several writers they share syncs.
func BenchmarkAppendSync(b *testing.B) {
	for _, writers := range []int{1, 16} {
		for _, size := range []int{4 << 10, 64 << 10, 256 << 10} {
			b.Run(fmt.Sprintf("writers=%d/KiB=%d", writers, size>>10), func(b *testing.B) {
				benchAppendSync(b, writers, size)
			})
		}
	}
}

func benchAppendSync(b *testing.B, writers, size int) {
	l, err := Open(Options{FS: vfs.Default, Dir: b.TempDir(), PreallocateInBackground: true})
	must(b, err)
	entry := payload(1, size)
	took := make([][]time.Duration, writers)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := w; i < b.N; i += writers {
				start := time.Now()
				last, err := l.Append(entry)
				if err == nil {
					err = l.Sync(context.Background(), last)
				}
				if err != nil {
					b.Error(err)
					return
				}
				took[w] = append(took[w], time.Since(start))
				if last%256 == 0 && last > 512 { // a steady state: files go round
					_ = l.TruncateFront(last - 512)
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	all := slices.Concat(took...)
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-µs")
	s := l.Stats()
	b.ReportMetric(float64(b.N)/float64(s.Syncs), "entries/sync")
	b.ReportMetric(float64(s.RolloversInline), "inline-rollovers")
	must(b, l.Close())
}

// BenchmarkReader reads a log in order from the page cache.
func BenchmarkReader(b *testing.B) {
	for _, size := range []int{4 << 10, 256 << 10} {
		b.Run(fmt.Sprintf("KiB=%d", size>>10), func(b *testing.B) {
			l, err := Open(Options{FS: vfs.Default, Dir: b.TempDir()})
			must(b, err)
			defer l.Close()
			n := uint64(128<<20) / uint64(size)
			for range n {
				_, err := l.Append(payload(1, size))
				must(b, err)
			}
			must(b, l.Sync(b.Context(), n))
			b.SetBytes(int64(size))
			b.ReportAllocs()
			r := l.NewReader(1)
			for b.Loop() {
				index, _, err := r.Next(b.Context())
				must(b, err)
				if index == n {
					r = l.NewReader(1)
				}
			}
		})
	}
}
