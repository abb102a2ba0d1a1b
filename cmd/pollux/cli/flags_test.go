package cli

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pollux-dr/pollux/internal/fail"
)

// TestPointFlag: what package twin does not read goes on in a form that it does, and an
// assumed zone is said.
func TestPointFlag(t *testing.T) {
	for in, want := range map[string]string{"42": "42", "-10m": "-10m0s", "-7d": "-168h0m0s", "nightly": "nightly",
		"2026-11-28T13:32:00Z": "2026-11-28T13:32:00Z", "2026-11-28 13:32 UTC": "2026-11-28T13:32:00Z"} {
		var at string
		p := PointFlag{At: &at}
		if err := p.Set(in); err != nil || at != want || p.note != "" {
			t.Errorf("--at %q: %q, %v, note %q; want %q", in, at, err, p.note, want)
		}
	}
	var at string
	p := PointFlag{At: &at}
	if err := p.Set("2026-11-28 13:32"); err != nil || !strings.HasPrefix(at, "2026-11-28T13:32:00") ||
		!strings.Contains(p.note, "has no zone") || !strings.Contains(p.note, at) {
		t.Errorf("without a zone: %q, %v, note %q", at, err, p.note)
	}
}

// TestRetrying: the same cause of many requests is one short line.
func TestRetrying(t *testing.T) {
	var out bytes.Buffer
	r := retrying{w: &out, store: "s3://bucket/p"}
	refused := errors.New("connection refused")
	for i := range 5 {
		r.tell(fail.At("list", fmt.Sprintf("s3://bucket/p/log/%d", i),
			fmt.Errorf("Get \"http://127.0.0.1:1/b/?list-type=2&prefix=p%%2Flog\": dial tcp: %w", refused)))
	}
	r.tell(fail.New(fail.Retry, "read", "x", "time out"))
	if got, want := out.String(), "pollux: trying again: s3://bucket/p: connection refused\n"+
		"pollux: trying again: s3://bucket/p: time out\n"; got != want {
		t.Errorf("said %q, want %q", got, want)
	}
}
