package agent

// lagMarks remembers, of frames that the WAL no longer holds and the targets do not
// hold yet, how old and how large they are. It is bounded: when there are too many,
// two neighbours become one.
type lagMarks []lagMark

// lagMark: the oldest record of frames up to last is of time; plain bytes.
type lagMark struct {
	last  uint64
	time  int64
	bytes int64
}

const maxLagMarks = 4096

func (m *lagMarks) add(r *frameRef) {
	if len(*m) == maxLagMarks {
		for i := range maxLagMarks / 2 {
			a, b := (*m)[2*i], (*m)[2*i+1]
			(*m)[i] = lagMark{b.last, a.time, a.bytes + b.bytes}
		}
		*m = (*m)[:maxLagMarks/2]
	}
	*m = append(*m, lagMark{r.last, r.time, int64(r.bytes)})
}

// drop forgets what the targets hold.
func (m *lagMarks) drop(durable uint64) {
	n := 0
	for n < len(*m) && (*m)[n].last <= durable {
		n++
	}
	*m = append((*m)[:0], (*m)[n:]...)
}

func (m lagMarks) bytes() (n int64) {
	for i := range m {
		n += m[i].bytes
	}
	return n
}
