package text

import "testing"

func TestPrintable(t *testing.T) {
	for _, c := range []struct {
		in   string
		max  int
		want string
	}{
		{"plain, 평문 \"quoted\"", 100, "plain, 평문 \"quoted\""},
		{"two\nlines\x1b[2J", 100, `two\nlines\x1b[2J`},
		{"bad \xff utf-8", 100, `bad \xff utf-8`},
		{"right\u202eleft \u009b", 100, `right\u202eleft \u009b`},
		{"평문", 4, "평"},
		{"", 4, ""},
	} {
		if got := Printable(c.in, c.max); got != c.want {
			t.Errorf("Printable(%q, %d) = %q, want %q", c.in, c.max, got, c.want)
		}
	}
}
