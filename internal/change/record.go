package change

import (
	"encoding/hex"
	"fmt"

	"github.com/google/uuid"
)

// Kind is what a record does.
type Kind uint8

const (
	// Write stores Data at [Off, Off+Len).
	Write Kind = 1
	// Zero makes [Off, Off+Len) zeros and keeps the space allocated.
	Zero Kind = 2
	// Trim makes [Off, Off+Len) zeros and gives the space back.
	Trim Kind = 3
	// Mark changes no block: Data names a bookmark.
	Mark Kind = 4
)

func (k Kind) String() string {
	switch k {
	case Write:
		return "write"
	case Zero:
		return "zero"
	case Trim:
		return "trim"
	case Mark:
		return "mark"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Limits of the format. A decoder refuses what exceeds them before it
// allocates.
const (
	MaxRecordBytes = 1 << 20  // data of one record
	MaxFrameBytes  = 8 << 20  // a whole encoded frame
	MaxRecords     = 1 << 16  // records of one frame
	MaxPlainBytes  = 4 << 20  // data of one frame before compression
	BlockBytes     = 64 << 10 // plain bytes of one compressed block, at most
	MinBlockBytes  = 4 << 10  // as small as a frame's are made
	MaxNameBytes   = 200      // names of groups, volumes, bookmarks
	MaxOffset      = 1 << 62  // end of a record
)

// Record is one change of one volume. LSNs are the frame's first LSN plus the
// record's place in it.
type Record struct {
	LSN     uint64
	Kind    Kind
	Volume  uint32 // the volume's number, unique in its journal; 0 for marks
	Off     int64  // bytes
	Len     uint32 // bytes changed; for a mark 0
	DataLen uint32 // bytes of data carried: Len for writes, 0 for zero and trim
	dataOff uint32 // where the data begins in the frame's plain bytes
}

// StreamID identifies a stream: one agent's part of one consistency group.
type StreamID = uuid.UUID

// Hash identifies a frame and, through the chain, everything before it: the
// first 16 bytes of the SHA-256 of its header.
type Hash [16]byte

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText and UnmarshalText make a Hash readable in JSON.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText parses 32 hex digits.
func (h *Hash) UnmarshalText(b []byte) error {
	if hex.DecodedLen(len(b)) != len(h) {
		return fmt.Errorf("hash %q: want %d hex digits", b, 2*len(h))
	}
	_, err := hex.Decode(h[:], b)
	return err
}

// Point is a place in a stream's history: the last record's LSN and the hash of
// the frame that ends with it. The zero Point is the beginning.
type Point struct {
	LSN  uint64 `json:"lsn"`
	Hash Hash   `json:"hash"`
}

func (p Point) String() string { return fmt.Sprintf("lsn %d hash %s", p.LSN, p.Hash) }
