package quantity

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
)

// Bytes is a size, written as 64KiB, 128MiB, 8GiB or 2TiB.
type Bytes int64

var units = []struct {
	suffix string
	bytes  int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"T", 1 << 40}, {"G", 1 << 30},
	{"M", 1 << 20}, {"K", 1 << 10}, {"B", 1}}

// minBare is the least number that is taken for bytes without a unit. A smaller one is
// a unit forgotten.
const minBare = 1 << 20

const sizeForms = "write 64KiB, 128MiB, 8GiB or 2TiB"

// ParseBytes reads a size: a whole number with a unit. Without one only 0 is taken, and
// a number of a million bytes and more, as other tools print it.
func ParseBytes(s string) (Bytes, error) {
	digits := strings.TrimRightFunc(s, unicode.IsLetter)
	unit := s[len(digits):]
	n, err := strconv.ParseUint(strings.TrimSpace(digits), 10, 63)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return 0, fmt.Errorf("%q is too large for a size", s)
	case err != nil:
		return 0, fmt.Errorf("%q is not a size: %s", s, sizeForms)
	case unit == "" && n > 0 && n < minBare:
		return 0, fmt.Errorf("%q is a size without a unit: write %dMiB or %dGiB for that many, %dB for bytes",
			s, n, n, n)
	case unit == "":
		return Bytes(n), nil
	case unit == "KB" || unit == "MB" || unit == "GB" || unit == "TB":
		return 0, fmt.Errorf("%q is not a size: %s is a power of 1000 for some and of 1024 for others, so write %ciB",
			s, unit, unit[0])
	}
	for _, u := range units {
		if u.suffix != unit {
			continue
		}
		if n > uint64(math.MaxInt64/u.bytes) {
			return 0, fmt.Errorf("%q is too large for a size", s)
		}
		return Bytes(int64(n) * u.bytes), nil
	}
	return 0, fmt.Errorf("%q is not a size: %s", s, sizeForms)
}

// String returns the size in the largest unit that keeps it exact, as ParseBytes reads it.
func (b Bytes) String() string {
	if b == 0 {
		return "0"
	}
	for _, u := range units[:4] {
		if int64(b)%u.bytes == 0 {
			return fmt.Sprintf("%d%s", int64(b)/u.bytes, u.suffix)
		}
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}

// UnmarshalYAML reads a size.
func (b *Bytes) UnmarshalYAML(text []byte) error { return b.Set(scalar(text)) }

// Set and Type make a Bytes a command-line flag.
func (b *Bytes) Set(s string) (err error) {
	*b, err = ParseBytes(s)
	return err
}

// Type names the flag's kind in help texts.
func (b *Bytes) Type() string { return "size" }

// scalar strips what YAML may put round a plain value.
func scalar(text []byte) string { return strings.Trim(strings.TrimSpace(string(text)), `"'`) }

const (
	// SectorBytes is what a volume's size is a multiple of: block devices have no other.
	SectorBytes = 512
	// MinVolume is the least size of a volume.
	MinVolume = 256 << 10
)

// CheckVolume refuses a size that no volume should have.
func CheckVolume(n int64) error {
	switch size := Bytes(n); {
	case n < MinVolume:
		return fmt.Errorf("%v is less than the minimum of a volume, %v", size, Bytes(MinVolume))
	case n%SectorBytes != 0:
		return fmt.Errorf("%v is not a multiple of %d bytes, as a block device's size is: %v or %v is", size,
			SectorBytes,
			size/SectorBytes*SectorBytes, (size/SectorBytes+1)*SectorBytes)
	}
	return nil
}
