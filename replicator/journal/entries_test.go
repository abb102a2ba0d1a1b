package journal

import "testing"

// TestRecentIsBounded adds many small and some large entries: what is returned is
// right, and the memory stays bounded.
func TestRecentIsBounded(t *testing.T) {
	var r recent
	const n = 20_000
	for i := uint64(1); i <= n; i++ {
		size := 8
		if i%100 == 0 {
			size = 3 << 20
		}
		e := make([]byte, size)
		e[0], e[1] = byte(i), byte(i>>8)
		r.add(i, e[:len(e)/2], e[len(e)/2:])
		sum := 0
		for _, x := range r.entries {
			sum += len(x.value) + len(x.frame)
		}
		if sum != r.bytes || len(r.entries) > recentEntries || sum > recentBytes+3<<20 {
			t.Fatalf("after %d: %d entries of %d bytes, counted %d", i, len(r.entries), sum, r.bytes)
		}
		got, ok := r.from(i)
		if !ok || len(got) != 1 || got[0].value[0] != byte(i) || got[0].value[1] != byte(i>>8) {
			t.Fatalf("entry %d is not there, or another one", i)
		}
		if all, ok := r.from(r.first); !ok || len(all) != len(r.entries) || all[0].value[0] != byte(r.first) {
			t.Fatalf("after %d: the first, %d, is wrong", i, r.first)
		}
	}
	if _, ok := r.from(r.first - 1); ok {
		t.Error("an entry before the first is claimed")
	}
}
