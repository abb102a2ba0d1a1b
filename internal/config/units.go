package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pollux-dr/pollux/internal/text"
)

// Bytes is a size, written as 4096, 64KiB, 128MiB, 8GiB or 2TiB.
type Bytes int64

var units = []struct {
	suffix string
	bytes  int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"T", 1 << 40}, {"G", 1 << 30}, {"M", 1 << 20}, {"K", 1 << 10}, {"B", 1}, {"", 1}}

// ParseBytes reads a size.
func ParseBytes(s string) (Bytes, error) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n < 0 || n > (1<<62)/u.bytes {
			break
		}
		return Bytes(n * u.bytes), nil
	}
	return 0, fmt.Errorf("%q is not a size; write 4096, 64KiB, 128MiB, 8GiB or 2TiB", s)
}

// UnmarshalYAML reads a size.
func (b *Bytes) UnmarshalYAML(text []byte) error { return b.Set(scalar(text)) }

// scalar strips what YAML may put round a plain value.
func scalar(text []byte) string { return strings.Trim(strings.TrimSpace(string(text)), `"'`) }

// Set and Type make a Bytes a command-line flag.
func (b *Bytes) Set(s string) (err error) {
	*b, err = ParseBytes(s)
	return err
}

// Type names the flag's kind in help texts.
func (b *Bytes) Type() string { return "size" }

// String returns the size in the largest unit that keeps it exact.
func (b Bytes) String() string {
	for _, u := range units[:4] {
		if b != 0 && int64(b)%u.bytes == 0 {
			return fmt.Sprintf("%d%s", int64(b)/u.bytes, u.suffix)
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// Duration is a time span, written as 500ms, 10s, 5m, 24h or 30d.
type Duration time.Duration

// UnmarshalYAML reads a span.
func (d *Duration) UnmarshalYAML(b []byte) error {
	v, err := text.ParseSpan(scalar(b))
	if err != nil {
		return fmt.Errorf("%q is not a time span; write 500ms, 10s, 5m, 24h or 30d", scalar(b))
	}
	*d = Duration(v)
	return nil
}

func (d Duration) String() string { return time.Duration(d).String() }
