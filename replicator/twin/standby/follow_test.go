package standby

import (
	"math/rand/v2"
	"testing"

	"github.com/pollux-dr/pollux/internal/seed"
)

// TestFollow: volumes are copied, later ones too, and what is written then is applied.
func TestFollow(t *testing.T) {
	r := newRig(t)
	random := rand.New(rand.NewPCG(seed.New(t), 1))
	r.log.Volume("a", rigVolume)
	r.log.Random(random, 10)
	r.open()
	r.must(r.settle())
	r.newest(1)
	if st := r.s.Status(); st.Brought != rigVolume || st.Applied != 0 {
		t.Errorf("a copy has brought %d bytes, and %d were applied", st.Brought, st.Applied)
	}
	r.log.Random(random, 20)
	r.must(r.settle())
	r.newest(1)
	if st := r.s.Status(); st.Brought != rigVolume || st.Applied == 0 {
		t.Errorf("it follows: %d bytes were brought, %d applied", st.Brought, st.Applied)
	}
	r.log.Volume("b", rigVolume/2)
	r.log.Folding = true
	r.log.Random(random, 30)
	r.must(r.settle())
	r.newest(2)
	r.open() // a restart
	r.log.Random(random, 10)
	r.must(r.settle())
	r.newest(2)
	if r.disk.copies != 2 {
		t.Errorf("%d whole copies were made", r.disk.copies)
	}
}
