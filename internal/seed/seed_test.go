package seed

import "testing"

func TestNew(t *testing.T) {
	t.Setenv(variable, "1234")
	if got := New(t); got != 1234 {
		t.Errorf("New is %d, with 1234 asked for", got)
	}
	t.Setenv(variable, "")
	if a, b := New(t), New(t); a == b {
		t.Errorf("two seeds are %d", a)
	}
}
