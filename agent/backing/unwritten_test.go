package backing

import (
	"path/filepath"
	"testing"
)

// TestReadChangesNoZeros: zeros that keep their space are described alike before and after
// they were read, and what is written among them is data, on disk or not yet.
func TestReadChangesNoZeros(t *testing.T) {
	const size = 8 << 20
	path := filepath.Join(t.TempDir(), "b")
	if _, err := Create(path, size); err != nil {
		t.Fatal(err)
	}
	b, err := Open(path, size)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	data := func() (n int64, at []int64) {
		for pos := int64(0); pos < size; {
			start, k, err := b.Data(pos)
			if err != nil {
				t.Fatal(err)
			}
			if k == 0 {
				break
			}
			n, at, pos = n+k, append(at, start), start+k
		}
		return n, at
	}
	if err := b.Zero(1<<20, 4<<20, true); err != nil {
		t.Fatal(err)
	}
	before, _ := data()
	if err := b.ReadAt(make([]byte, size), 0); err != nil {
		t.Fatal(err)
	}
	if after, at := data(); after != before {
		t.Errorf("%d bytes of data before a read, %d after it, at %d", before, after, at)
	}
	block := make([]byte, 4096)
	block[0] = 1
	if err := b.WriteAt(block, 2<<20); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it is not on disk, and stays in the cache
		if start, n, err := b.Data(2 << 20); err != nil || start != 2<<20 || n < 4096 {
			t.Errorf("what was written: data from %d, %d bytes, %v", start, n, err)
		}
	}
	got := make([]byte, 4096)
	if err := b.ReadAt(got, 2<<20); err != nil || got[0] != 1 {
		t.Errorf("read %d, %v", got[0], err)
	}
}
