package promote

import "testing"

// TestOvertaken: only a hand-over behind it lets go of one that was to be taken up, and none of a
// failover whose fence is there.
func TestOvertaken(t *testing.T) {
	at := func(index uint64) *HandOver { return &HandOver{Index: index} }
	for what, c := range map[string]struct {
		decided *intent
		now     *HandOver
		want    bool
	}{
		"nothing was decided":   {nil, at(9), false},
		"a failover by force":   {&intent{}, at(9), false},
		"asked for by force":    {&intent{HandOver: at(5)}, nil, false},
		"the same":              {&intent{HandOver: at(9)}, at(9), false},
		"an earlier one":        {&intent{HandOver: at(9)}, at(5), false},
		"a later one":           {&intent{HandOver: at(5)}, at(9), true},
		"a later one, too late": {&intent{HandOver: at(5), Fence: &fenced{}}, at(9), false},
	} {
		r := run{Options: Options{HandOver: c.now}, intent: c.decided}
		if got := r.overtaken(); got != c.want {
			t.Errorf("%s: %v", what, got)
		}
	}
}
