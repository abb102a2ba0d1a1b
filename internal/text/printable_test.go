package text

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"unicode"
)

var unfit = map[string]string{
	"clear \x1b[2J":                 `clear \u001b[2J`,
	"csi \u009b2J":                  `csi \u009b2J`,
	"back\r\b\x7f\x00":              `back\u000d\u0008\u007f\u0000`,
	"turned \u202e round":           `turned \u202e round`,
	"invisible \U000e0041":          `invisible \udb40\udc41`,
	"not UTF-8: \xff\xc3 \xe2\x82x": `not UTF-8: \xff\xc3 \xe2\x82x`,
	"Zürich 東京 ½":                   "Zürich 東京 ½",
}

func TestPrintable(t *testing.T) {
	for in, want := range unfit {
		for cut := range in { // a character may come in two parts
			var out bytes.Buffer
			w := Printable(&out)
			for _, part := range []string{in[:cut], in[cut:] + "\n\tnext\n"} {
				if n, err := io.WriteString(w, part); n != len(part) || err != nil {
					t.Fatal(n, err)
				}
			}
			if got := out.String(); got != want+"\n\tnext\n" {
				t.Errorf("%q cut at %d: %q", in, cut, got)
			}
		}
	}
}

// TestPrintableJSON: what was JSON stays it, and means the same.
func TestPrintableJSON(t *testing.T) {
	for in := range unfit {
		in = strings.ToValidUTF8(in, "?")
		var out bytes.Buffer
		e := json.NewEncoder(Printable(&out))
		e.SetIndent("", "  ")
		if err := e.Encode([]string{in}); err != nil {
			t.Fatal(err)
		}
		var got []string
		if err := json.Unmarshal(out.Bytes(), &got); err != nil || got[0] != in {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
}

// TestTableLines: a cell cannot make a row or a column.
func TestTableLines(t *testing.T) {
	var out bytes.Buffer
	Table(&out, [][]string{{"NAME", "AGENT"}, {"v", "a\nw\tb\x1b[1A"}})
	if n := strings.Count(out.String(), "\n"); n != 2 {
		t.Errorf("%d lines: %q", n, out.String())
	}
	for _, r := range out.String() {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Errorf("%q in %q", r, out.String())
		}
	}
}
