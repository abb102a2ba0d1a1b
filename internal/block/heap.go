package block

import (
	"math/bits"
	"sync"
)

// Heap buffers come in powers of two from 4 KiB to MaxWriteBytes, so that a
// stream of small writes does not keep megabytes alive.
const (
	minHeapShift = 12
	maxHeapShift = 20
)

var heapPools [maxHeapShift - minHeapShift + 1]sync.Pool

// HeapBuffer is a Buffer in ordinary pooled memory, in one piece. Devices
// without memory of their own use it for Prepare, and front ends for reads.
type HeapBuffer struct {
	mem    []byte
	pieces [1][]byte
	class  int
}

// NewHeapBuffer returns a buffer of n bytes, 0 ≤ n ≤ MaxWriteBytes, with
// arbitrary content. It panics for other n, which is a bug of the caller.
func NewHeapBuffer(n int) *HeapBuffer {
	if n < 0 || n > MaxWriteBytes {
		panic("block: heap buffer size out of range")
	}
	class := 0
	if n > 1<<minHeapShift {
		class = bits.Len(uint(n-1)) - minHeapShift
	}
	b, _ := heapPools[class].Get().(*HeapBuffer)
	if b == nil {
		b = &HeapBuffer{mem: make([]byte, 1<<(minHeapShift+class)), class: class}
	}
	b.pieces[0] = b.mem[:n]
	return b
}

// Bytes is the whole buffer.
func (b *HeapBuffer) Bytes() []byte { return b.pieces[0] }

// Pieces implements Buffer.
func (b *HeapBuffer) Pieces() [][]byte { return b.pieces[:] }

// Release gives the buffer back to the pool; it must not be used afterwards.
func (b *HeapBuffer) Release() {
	b.pieces[0] = nil
	heapPools[b.class].Put(b)
}
