package nbd

import (
	"encoding/binary"

	"github.com/pollux-dr/pollux/internal/block"
)

// maxExtents bounds one reply; clients ask again for the rest.
const maxExtents = 4096

// blockStatus carries out an NBD_CMD_BLOCK_STATUS and answers it for
// base:allocation, the only context there is.
func (c *conn) blockStatus(r *request) {
	extents, err := c.dev.Extents(c.ctx, int64(r.off), int64(r.length))
	if err != nil {
		c.finish(r, c.errno(r, err))
		return
	}
	limit := maxExtents
	if r.flags&cmdFlagReqOne != 0 {
		limit = 1
	}
	payload := describe(extents, int64(r.length), limit)
	if len(payload) == 0 { // a device must describe something
		c.log.Error("nbd: device describes no extents", "off", r.off, "bytes", r.length)
		c.finish(r, nbdEIO)
		return
	}
	c.count(r, nbdOK)
	var head [4]byte
	binary.BigEndian.PutUint32(head[:], metaBaseID)
	c.out.chunk(r.cookie, chunkFlagDone, chunkBlockStatus, head[:], payload)
}

// describe encodes at most limit descriptors of extents, cut at length bytes.
// Neighbours of one state are merged, as NBD wants consecutive ones to differ.
func describe(extents []block.Extent, length int64, limit int) []byte {
	var out []byte
	var run int64
	var state uint32
	emit := func() {
		if run > 0 {
			out = binary.BigEndian.AppendUint32(out, uint32(run))
			out = binary.BigEndian.AppendUint32(out, state)
			limit--
		}
	}
	for _, e := range extents {
		n := min(e.Bytes, length)
		if n <= 0 {
			break
		}
		if s := stateOf(e); s != state || run == 0 {
			emit()
			if limit == 0 {
				return out
			}
			run, state = 0, s
		}
		run += n
		length -= n
	}
	emit()
	return out
}

func stateOf(e block.Extent) uint32 {
	var s uint32
	if e.Hole {
		s |= stateHole
	}
	if e.Zero {
		s |= stateZero
	}
	return s
}
