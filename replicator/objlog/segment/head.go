package segment

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/google/uuid"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Type says what an object of the log is.
type Type uint8

// The types: what position 0 holds, what a writer uploads, and what a later writer ends it with.
const (
	Identity Type = 1
	Segment  Type = 2
	Fence    Type = 3
)

func (t Type) String() string {
	switch t {
	case Identity:
		return "identity"
	case Segment:
		return "segment"
	case Fence:
		return "fence"
	}
	return fmt.Sprintf("type(%d)", uint8(t))
}

// Token says who writes: a journal epoch, a Raft term, and a random id of the
// writer. A higher (epoch, term) fences every lower one; two writers with an
// equal one but another id are rivals, of whom the log keeps the first.
type Token struct {
	Epoch  uint64    `json:"epoch"`
	Term   uint64    `json:"term"`
	Writer uuid.UUID `json:"writer"`
}

// Compare orders tokens by epoch and term.
func (t Token) Compare(o Token) int {
	return cmp.Or(cmp.Compare(t.Epoch, o.Epoch), cmp.Compare(t.Term, o.Term))
}

func (t Token) String() string {
	return fmt.Sprintf("epoch %d term %d writer %s", t.Epoch, t.Term, t.Writer)
}

const (
	headMagic = "PLXS"
	// Version is the container's version of an object without frames and folds, and
	// TablesVersion of one with them. Older releases wrote Version for frames, and
	// FoldsVersion where there were folds. This build reads all three.
	Version       = 1
	FoldsVersion  = 2
	TablesVersion = 3
	// HeadBytes is the size of an encoded head.
	HeadBytes = 128
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Head begins every object, and stands again at the start of its footer:
//
//	 0  4 magic "PLXS"     48  8 position
//	 4  2 version          56  8 position that the writer knew durable
//	 6  1 type             64  8 first journal index
//	 7  1 cipher (0)       72  8 last journal index (first-1: none)
//	 8 16 journal UUID     80  8 time, ns
//	24  8 token: epoch     88  4 key id (0)
//	32  8 token: term      92 16 token: writer
//	40  1 flags           108 16 reserved   124 4 CRC-32C of bytes 0..123
//
// Magic, version and checksum stand there in every version, so that damage is
// never taken for a later one.
type Head struct {
	Version               uint16 // set by Build
	Type                  Type
	Journal               uuid.UUID
	Token                 Token
	Position              uint64
	DurablePosition       uint64
	FirstIndex, LastIndex uint64
	Time                  int64 // ns since 1970, the writer's clock
	// ChecksTail: the writer looks whether its positions were freed before it counts what it
	// created there (see uploader). Readers of earlier releases pass over the flag.
	ChecksTail bool
}

// flagChecksTail is Head.ChecksTail among the flags.
const flagChecksTail = 1

func (h *Head) put(b []byte) {
	b = b[:HeadBytes]
	clear(b)
	le := binary.LittleEndian
	copy(b, headMagic)
	le.PutUint16(b[4:], h.Version)
	b[6] = byte(h.Type)
	copy(b[8:], h.Journal[:])
	le.PutUint64(b[24:], h.Token.Epoch)
	le.PutUint64(b[32:], h.Token.Term)
	if h.ChecksTail {
		b[40] = flagChecksTail
	}
	le.PutUint64(b[48:], h.Position)
	le.PutUint64(b[56:], h.DurablePosition)
	le.PutUint64(b[64:], h.FirstIndex)
	le.PutUint64(b[72:], h.LastIndex)
	le.PutUint64(b[80:], uint64(h.Time))
	copy(b[92:108], h.Token.Writer[:])
	le.PutUint32(b[124:], crc32.Checksum(b[:124], castagnoli))
}

// ParseHead decodes and checks a head. at is its offset in the object, for errors.
func ParseHead(b []byte, at int64) (Head, error) {
	var h Head
	if len(b) < HeadBytes {
		return h, damaged(at, "head cut short at %d bytes", len(b))
	}
	b = b[:HeadBytes]
	le := binary.LittleEndian
	if string(b[:4]) != headMagic {
		return h, damaged(at, "not an object of Pollux: magic %q", b[:4])
	}
	if crc32.Checksum(b[:124], castagnoli) != le.Uint32(b[124:]) {
		return h, damaged(at+124, "head checksum does not match")
	}
	if h.Version = le.Uint16(b[4:]); h.Version < Version || h.Version > TablesVersion {
		return h, fail.New(fail.Unsupported, "decode object", "",
			fmt.Sprintf("container version %d; this build reads %d to %d", h.Version, Version, TablesVersion)).
			WithHint("use a pollux version that knows this format")
	}
	if b[7] != 0 {
		return h, fail.New(fail.Unsupported, "decode object", "",
			fmt.Sprintf("cipher %d, key %d", b[7], le.Uint32(b[88:])))
	}
	h.Type = Type(b[6])
	copy(h.Journal[:], b[8:])
	h.Token.Epoch, h.Token.Term = le.Uint64(b[24:]), le.Uint64(b[32:])
	copy(h.Token.Writer[:], b[92:])
	h.Position, h.DurablePosition = le.Uint64(b[48:]), le.Uint64(b[56:])
	h.FirstIndex, h.LastIndex = le.Uint64(b[64:]), le.Uint64(b[72:])
	h.Time, h.ChecksTail = int64(le.Uint64(b[80:])), b[40]&flagChecksTail != 0
	if h.Type < Identity || h.Type > Fence {
		return h, fail.New(fail.Unsupported, "decode object", "", fmt.Sprintf("object type %d", b[6]))
	}
	if n := h.LastIndex - h.FirstIndex + 1; n > MaxEntries || h.FirstIndex == 0 {
		return h, damaged(at+64, "journal index %d to %d", h.FirstIndex, h.LastIndex)
	}
	return h, nil
}

func damaged(at int64, format string, args ...any) error {
	return fail.New(fail.Damaged, "decode object", fmt.Sprintf("at byte %d", at), fmt.Sprintf(format, args...))
}

// Move gives an encoded object another position.
func Move(obj []byte, position uint64) error {
	h, err := ParseHead(obj, 0)
	if err != nil {
		return err
	}
	t, err := parseTrailer(obj[len(obj)-TrailerBytes:], int64(len(obj)))
	if err != nil {
		return err
	}
	h.Position = position
	h.put(obj)
	h.put(obj[t.footerOff:])
	return nil
}

func sameHead(a, b []byte) bool { return bytes.Equal(a[:HeadBytes], b[:HeadBytes]) }
