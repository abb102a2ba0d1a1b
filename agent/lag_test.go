package agent

import "testing"

// TestLagMarks keeps the sum and the oldest time, however many there are.
func TestLagMarks(t *testing.T) {
	var m lagMarks
	const n = 3*maxLagMarks + 7
	for i := uint64(1); i <= n; i++ {
		m.add(&frameRef{last: i * 10, time: int64(i), bytes: 3})
		if len(m) > maxLagMarks {
			t.Fatalf("%d marks", len(m))
		}
	}
	if m.bytes() != 3*n || m[0].Time != 1 || m[len(m)-1].Last != n*10 {
		t.Errorf("%d bytes, oldest %d, newest %d", m.bytes(), m[0].Time, m[len(m)-1].Last)
	}
	for i := 1; i < len(m); i++ {
		if m[i].Last <= m[i-1].Last || m[i].Time <= m[i-1].Time {
			t.Fatalf("mark %d is not later than the one before", i)
		}
	}
	if b := m.summary(); *b != (lagMark{n * 10, 1, 3 * n, 0}) {
		t.Errorf("in brief %+v", *b)
	}
	m.drop(n * 5)
	if len(m) == 0 || m[0].Last <= n*5 {
		t.Error("dropped too little or all")
	}
	m.drop(n * 10)
	if len(m) != 0 || m.bytes() != 0 {
		t.Error("something is left")
	}
}
