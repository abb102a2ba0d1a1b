package fold

import (
	"hash/crc32"
	"math/bits"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CombineCRC returns the CRC-32C of a followed by b from that of a, that of b, and
// the length of b. After zlib's crc32_combine: appending n bytes multiplies by
// x^8n modulo the polynomial.
func CombineCRC(a, b uint32, lenB int) uint32 {
	if lenB == 0 {
		return a
	}
	return multiply(power(lenB), a) ^ b
}

// Polynomials are bit-reflected: the highest bit is x^0.
const one = uint32(1) << 31

func multiply(a, b uint32) uint32 {
	p := uint32(0)
	for m := one; ; m >>= 1 {
		if a&m != 0 {
			if p ^= b; a&(m-1) == 0 {
				return p
			}
		}
		carry := b & 1
		if b >>= 1; carry != 0 {
			b ^= crc32.Castagnoli
		}
	}
}

// doublings[k] is x^(2^k).
var doublings = func() (t [32]uint32) {
	p := one >> 1 // x^1
	for k := range t {
		t[k] = p
		p = multiply(p, p)
	}
	return t
}()

// power returns x^(8n).
func power(n int) uint32 {
	p := one
	for v := uint64(n) * 8; v != 0; v &= v - 1 {
		p = multiply(doublings[bits.TrailingZeros64(v)], p)
	}
	return p
}
