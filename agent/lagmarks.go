package agent

// lagMarks remembers, of frames that the WAL no longer holds and the targets do not
// hold yet, how old and how large they are. It is bounded: when there are too many,
// two neighbours become one.
type lagMarks []lagMark

// lagMark: the oldest record of frames up to last is of time; plain bytes.
type lagMark struct {
	Last  uint64 `json:"last"`
	Time  int64  `json:"time"`
	Bytes int64  `json:"bytes"`
	at    int64  // Time, by clock.SinceStart
}

const maxLagMarks = 4096

func (m *lagMarks) add(r *frameRef) {
	if len(*m) == maxLagMarks {
		for i := range maxLagMarks / 2 {
			a, b := (*m)[2*i], (*m)[2*i+1]
			(*m)[i] = lagMark{b.Last, a.Time, a.Bytes + b.Bytes, a.at}
		}
		*m = (*m)[:maxLagMarks/2]
	}
	*m = append(*m, lagMark{r.last, r.time, int64(r.bytes), r.at})
}

// drop forgets what the targets hold.
func (m *lagMarks) drop(durable uint64) {
	n := 0
	for n < len(*m) && (*m)[n].Last <= durable {
		n++
	}
	*m = append((*m)[:0], (*m)[n:]...)
}

func (m lagMarks) bytes() (n int64) {
	for i := range m {
		n += m[i].Bytes
	}
	return n
}

// summary is all of them as one mark, for a checkpoint; nil where there is none.
func (m lagMarks) summary() *lagMark {
	if len(m) == 0 {
		return nil
	}
	return &lagMark{m[len(m)-1].Last, m[0].Time, m.bytes(), m[0].at}
}
