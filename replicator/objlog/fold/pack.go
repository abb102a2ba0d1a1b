package fold

import (
	"hash/crc32"
	"runtime"
	"sync"

	"github.com/pollux-dr/pollux/internal/change"
	"github.com/pollux-dr/pollux/replicator/objlog/segment"
)

// packer makes blocks of the pieces that it is given, one after another, and
// compresses them on all cores.
type packer struct {
	effort change.Effort
	fill   []byte // the block that is being filled
	sum    uint32 // its CRC-32C so far, made up of the pieces'
	total  int64

	slots   chan struct{}
	running sync.WaitGroup
	mu      sync.Mutex
	blocks  []segment.FoldBlock
}

// take copies what the runs have of a block, whose plain bytes begin at `at`, and
// returns the block's checksum as made up of its pieces'. What the runs do not have
// is summed only.
func (p *packer) take(plain []byte, at int, runs []span) (sum uint32) {
	pos := 0
	add := func(end int) uint32 {
		c := crc32.Checksum(plain[pos:end], castagnoli)
		sum = CombineCRC(sum, c, end-pos)
		pos = end
		return c
	}
	for _, r := range runs {
		from, to := max(r.from-at, pos), min(r.to-at, len(plain))
		if from >= len(plain) {
			break
		}
		add(from)
		for pos < to {
			begin, end := pos, min(to, pos+change.BlockBytes-len(p.fill))
			c := add(end)
			p.fill = append(p.fill, plain[begin:end]...)
			if p.sum = CombineCRC(p.sum, c, end-begin); len(p.fill) == change.BlockBytes {
				p.flush()
			}
		}
	}
	add(len(plain))
	return sum
}

// flush compresses the filled block beside what comes next.
func (p *packer) flush() {
	if p.slots == nil {
		p.slots = make(chan struct{}, runtime.GOMAXPROCS(0))
	}
	plain, sum := p.fill, p.sum
	p.fill, p.sum = make([]byte, 0, change.BlockBytes), 0
	p.total += int64(len(plain))
	p.mu.Lock()
	k := len(p.blocks)
	p.blocks = append(p.blocks, segment.FoldBlock{PlainBytes: uint32(len(plain)), CRC: sum})
	p.mu.Unlock()
	p.slots <- struct{}{}
	p.running.Go(func() {
		data := change.Zstd(p.effort, make([]byte, 0, len(plain)), plain)
		p.mu.Lock()
		p.blocks[k].Data = data
		p.mu.Unlock()
		<-p.slots
	})
}

// finish returns the blocks.
func (p *packer) finish() []segment.FoldBlock {
	if len(p.fill) > 0 {
		p.flush()
	}
	p.running.Wait()
	return p.blocks
}
