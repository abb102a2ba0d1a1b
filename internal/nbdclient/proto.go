package nbdclient

import (
	"fmt"
	"syscall"

	"github.com/pollux-dr/pollux/internal/fail"
)

const (
	magicInit            = 0x4e42444d41474943
	magicOption          = 0x49484156454F5054
	magicOptReply        = 0x0003e889045565a9
	magicRequest         = 0x25609513
	magicSimpleReply     = 0x67446698
	magicStructuredReply = 0x668e33ef

	handshakeFixedNewstyle = 1 << 0
	handshakeNoZeroes      = 1 << 1

	optStartTLS        = 5
	optGo              = 7
	optStructuredReply = 8
	optSetMetaContext  = 10

	repAck         = 1
	repInfo        = 3
	repMetaContext = 4
	repErr         = 1 << 31
	repErrUnknown  = repErr | 6

	infoExport    = 0
	infoBlockSize = 3

	chunkFlagDone    = 1 << 0
	chunkNone        = 0
	chunkOffsetData  = 1
	chunkOffsetHole  = 2
	chunkBlockStatus = 5
	chunkIsError     = 1 << 15

	requestHeaderBytes = 28
	simpleReplyBytes   = 16
	chunkHeaderBytes   = 20

	// maxReplyBytes bounds what a broken server can make us allocate.
	maxReplyBytes = 1 << 20
)

// Op is a command of the protocol.
type Op uint16

// The commands.
const (
	Read        Op = 0
	Write       Op = 1
	disconnect  Op = 2
	Flush       Op = 3
	Trim        Op = 4
	Cache       Op = 5
	Zero        Op = 6
	BlockStatus Op = 7
)

var opNames = [...]string{"read", "write", "disconnect", "flush", "trim", "cache", "zero", "block status"}

func (o Op) String() string {
	if int(o) < len(opNames) {
		return opNames[o]
	}
	return fmt.Sprintf("command %d", uint16(o))
}

// Flags are a command's flags.
type Flags uint16

// The flags of commands.
const (
	FUA      Flags = 1 << 0 // reply only when durable
	NoHole   Flags = 1 << 1 // Zero: keep the space allocated
	DF       Flags = 1 << 2 // Read: answer in one chunk
	ReqOne   Flags = 1 << 3 // BlockStatus: only the first extent
	FastZero Flags = 1 << 4 // Zero: fail rather than write zeros
)

// kindOf maps the server's error value to what the caller can do.
func kindOf(errno uint32) fail.Kind {
	switch syscall.Errno(errno) {
	case syscall.EPERM:
		return fail.Refused
	case syscall.EINVAL:
		return fail.Invalid
	case syscall.ENOSPC:
		return fail.Full
	case syscall.EOVERFLOW, syscall.ENOTSUP:
		return fail.Unsupported
	case syscall.ESHUTDOWN:
		return fail.Retry
	default:
		return fail.Internal
	}
}
