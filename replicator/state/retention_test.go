package state

import "testing"

func TestRetentionOverflow(t *testing.T) {
	r, err := ParseRetention("every_write=585y")
	t.Log(r.String(), err)
	if err == nil {
		t.Fatal("585 years became", r.String())
	}
}
