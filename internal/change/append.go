package change

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/pollux-dr/pollux/internal/fail"
)

// MaxLSN leaves room behind every LSN that somebody names: LSNs are counted on.
const MaxLSN = math.MaxInt64

// AppendItem is one frame of an Append: its header and, unless the session is
// by reference, its body. Ref is the frame's index in the agent's WAL.
type AppendItem struct {
	Ref    uint64
	Header []byte // HeaderBytes long
	Body   []byte // nil by reference
	Offset int    // of the header in a parsed message; the body follows it
}

// Append carries frames of one stream, in order, without gaps.
type Append struct {
	Stream StreamID
	Lease  Lease
	Items  []AppendItem
}

const (
	appendHead = 40
	itemHead   = 16
	// MaxAppendItems and MaxAppendBytes bound one Append.
	MaxAppendItems = 1024
	MaxAppendBytes = MaxFrameBytes + 1<<20
)

// Parts returns the payload as slices to be written one after another, so that
// bodies are not copied:
//
//	 0 16 stream   16 8 lease epoch   24 8 lease number   32 4 items   36 4 reserved
//	per item: 0 8 ref   8 4 body bytes (0: by reference)   12 4 reserved   header   body
func (a *Append) Parts() [][]byte {
	le := binary.LittleEndian
	head := make([]byte, appendHead+len(a.Items)*(itemHead+HeaderBytes))
	copy(head, a.Stream[:])
	le.PutUint64(head[16:], a.Lease.Epoch)
	le.PutUint64(head[24:], a.Lease.Number)
	le.PutUint32(head[32:], uint32(len(a.Items)))
	parts := make([][]byte, 0, 2*len(a.Items)+1)
	from, at := 0, appendHead
	for i := range a.Items {
		it := &a.Items[i]
		le.PutUint64(head[at:], it.Ref)
		le.PutUint32(head[at+8:], uint32(len(it.Body)))
		copy(head[at+itemHead:], it.Header[:HeaderBytes])
		at += itemHead + HeaderBytes
		if len(it.Body) > 0 {
			parts = append(parts, head[from:at], it.Body)
			from = at
		}
	}
	if from < at {
		parts = append(parts, head[from:at])
	}
	return parts
}

// ParseAppend decodes an Append. The items refer to b.
func ParseAppend(b []byte) (Append, error) {
	var a Append
	if len(b) < appendHead {
		return a, damaged(len(b), "append message cut short")
	}
	le := binary.LittleEndian
	copy(a.Stream[:], b)
	a.Lease = Lease{le.Uint64(b[16:]), le.Uint64(b[24:])}
	n := le.Uint32(b[32:])
	if n == 0 || n > MaxAppendItems {
		return a, damaged(32, "append of %d frames", n)
	}
	a.Items = make([]AppendItem, n)
	at := appendHead
	for i := range a.Items {
		if len(b)-at < itemHead+HeaderBytes {
			return a, damaged(at, "append message cut short in frame %d", i)
		}
		ref, body := le.Uint64(b[at:]), int(le.Uint32(b[at+8:]))
		at += itemHead
		a.Items[i] = AppendItem{Ref: ref, Header: b[at : at+HeaderBytes], Offset: at}
		at += HeaderBytes
		if body > len(b)-at {
			return a, damaged(at, "append message cut short in frame %d's body", i)
		}
		if body > 0 {
			a.Items[i].Body = b[at : at+body]
			at += body
		}
	}
	if at != len(b) {
		return a, damaged(at, "append message has %d bytes too many", len(b)-at)
	}
	return a, nil
}

// Check refuses frames that are not of the append's stream, that do not follow one
// another, or whose bytes are not what their headers say: once they are in a journal,
// they must be uploadable. Errors are fail.Damaged, Invalid or Unsupported.
func (a *Append) Check() error {
	var at Point
	for i := range a.Items {
		it := &a.Items[i]
		h, here, err := a.header(i)
		if err != nil {
			return err
		}
		if h.LastLSN > MaxLSN {
			return fail.New(fail.Invalid, "check", "append", fmt.Sprintf("frame %d ends at LSN %d", i, h.LastLSN))
		}
		if i > 0 {
			if err := h.Follows(at); err != nil {
				return err
			}
		}
		if at = here; it.Body == nil {
			continue
		}
		if _, err := Parse(slices.Concat(it.Header, it.Body)); err != nil {
			return err
		}
	}
	return nil
}

// header is that of a frame, which must be of the append's stream, and where it ends.
func (a *Append) header(i int) (h Header, at Point, err error) {
	h, hash, err := ParseHeader(a.Items[i].Header)
	if err == nil && h.Stream != a.Stream {
		err = fail.New(fail.Damaged, "check", "append",
			fmt.Sprintf("frame %d is of stream %s, the append of %s", i, h.Stream, a.Stream))
	}
	return h, Point{LSN: h.LastLSN, Hash: hash}, err
}

// FreshFrame is a frame of an append that its stream does not have yet.
type FreshFrame struct {
	Item  *AppendItem
	Bytes int // of the whole frame
}

// Fresh are the frames of an append with which its stream, which stands at a point, goes
// on, and where it stands then. Frames that it has are left out. An error, of which
// nothing is to be taken, is fail.Retry where something before them did not arrive,
// Fenced for another history, or Damaged.
func (a *Append) Fresh(at Point) (fresh []FreshFrame, end Point, err error) {
	end = at
	for i := range a.Items {
		h, here, err := a.header(i)
		if err != nil {
			return nil, at, err
		}
		if len(fresh) == 0 && (here == at || h.LastLSN < at.LSN) {
			continue // a repeat: the last one again, or one from before, for which its successors' chain vouches
		}
		if err := h.Follows(end); err != nil {
			kind := fail.Fenced
			if h.FirstLSN > end.LSN+1 {
				kind = fail.Retry
			}
			return nil, at, fail.Wrap(kind, "check", "append", err)
		}
		fresh, end = append(fresh, FreshFrame{&a.Items[i], h.FrameBytes()}), here
	}
	return fresh, end, nil
}
