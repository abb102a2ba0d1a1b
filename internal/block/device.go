package block

import "context"

// MaxWriteBytes is the most that one Prepare may ask for. Front ends split
// larger requests.
const MaxWriteBytes = 1 << 20

// Device is a random-access array of bytes with a volatile write cache, as NBD
// and the kernel's block layer understand it: a completed write is visible to
// every later read on any connection, and durable after a later Flush, or at
// once with fua. Implementations are safe for concurrent use. Offsets and
// lengths are in bytes and need no alignment; front ends check bounds before
// they call, and implementations refuse what lies outside all the same.
//
// A call that blocks for lack of memory or room ends early only when its
// context does.
type Device interface {
	Info() Info

	// ReadAt fills p from off.
	ReadAt(ctx context.Context, p []byte, off int64) error

	// Prepare returns memory for a write of n bytes (1..MaxWriteBytes), so that
	// a payload can be received straight into its final place. It blocks while
	// the memory budget is used up. The caller passes the buffer to Write or
	// calls its Release, exactly one of the two, exactly once.
	Prepare(ctx context.Context, n int) (Buffer, error)

	// Write writes the buffer's bytes at off and takes the buffer over whatever
	// it returns. Without fua it returns as soon as the write is visible; with
	// fua when it is durable.
	Write(ctx context.Context, b Buffer, off int64, fua bool) error

	// Zero makes [off, off+n) read as zeros. With noHole the space stays
	// allocated where the backing can do that.
	Zero(ctx context.Context, off, n int64, noHole, fua bool) error

	// Trim discards [off, off+n), which then reads as zeros.
	Trim(ctx context.Context, off, n int64, fua bool) error

	// Flush makes every write that was completed before the call, on whatever
	// connection, durable.
	Flush(ctx context.Context) error

	// Extents describes [off, off+n) from off on, in order and without gaps. It
	// may describe less than asked for (but something), and may merge or split
	// extents freely.
	Extents(ctx context.Context, off, n int64) ([]Extent, error)
}

// Info is what a front end tells its clients about a device.
type Info struct {
	SizeBytes      int64
	MinBlockBytes  uint32 // smallest request; 1 if any
	PrefBlockBytes uint32 // preferred alignment and size
	ReadOnly       bool
	Description    string // one line for people; may be empty
}

// Buffer is memory obtained from Device.Prepare.
type Buffer interface {
	// Pieces are the parts of the buffer in order; their lengths add up to the
	// n of Prepare.
	Pieces() [][]byte
	// Release gives an unused buffer back.
	Release()
}

// Extent is a run of bytes of one allocation state, in the sense of NBD's
// base:allocation.
type Extent struct {
	Bytes int64
	Hole  bool // not allocated
	Zero  bool // reads as zeros
}
