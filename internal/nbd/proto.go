package nbd

// Constants of the protocol, by section of
// https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md.

// "Newstyle negotiation".
const (
	magicInit     = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption   = 0x49484156454F5054 // "IHAVEOPT"
	magicOptReply = 0x0003e889045565a9

	handshakeFixedNewstyle = 1 << 0
	handshakeNoZeroes      = 1 << 1

	maxStringBytes = 4096 // "Values": no string may be longer
)

// "Transmission flags".
const (
	flagHasFlags        = 1 << 0
	flagReadOnly        = 1 << 1
	flagSendFlush       = 1 << 2
	flagSendFUA         = 1 << 3
	flagSendTrim        = 1 << 5
	flagSendWriteZeroes = 1 << 6
	flagSendDF          = 1 << 7
	flagCanMultiConn    = 1 << 8
	flagSendCache       = 1 << 10
	flagSendFastZero    = 1 << 11
)

// "Option types".
const (
	optExportName      = 1
	optAbort           = 2
	optList            = 3
	optStartTLS        = 5
	optInfo            = 6
	optGo              = 7
	optStructuredReply = 8
	optListMetaContext = 9
	optSetMetaContext  = 10
)

// "Option reply types".
const (
	repAck         = 1
	repServer      = 2
	repInfo        = 3
	repMetaContext = 4

	repErr        = 1 << 31
	repErrUnsup   = repErr | 1
	repErrPolicy  = repErr | 2
	repErrInvalid = repErr | 3
	repErrTLSReqd = repErr | 5
	repErrUnknown = repErr | 6
	repErrTooBig  = repErr | 9
)

// NBD_OPT_INFO and NBD_OPT_GO: information types.
const (
	infoExport      = 0
	infoName        = 1
	infoDescription = 2
	infoBlockSize   = 3
)

// "Metadata querying".
const (
	metaBaseAllocation = "base:allocation"
	metaBaseID         = 1 // the id that we give base:allocation

	stateHole = 1 << 0
	stateZero = 1 << 1
)

// "Request message" and "Request types".
const (
	magicRequest       = 0x25609513
	requestHeaderBytes = 28

	cmdRead        = 0
	cmdWrite       = 1
	cmdDisc        = 2
	cmdFlush       = 3
	cmdTrim        = 4
	cmdCache       = 5
	cmdWriteZeroes = 6
	cmdBlockStatus = 7
)

// "Command flags".
const (
	cmdFlagFUA      = 1 << 0
	cmdFlagNoHole   = 1 << 1
	cmdFlagDF       = 1 << 2
	cmdFlagReqOne   = 1 << 3
	cmdFlagFastZero = 1 << 4
)

// "Simple reply message" and "Structured reply chunk message".
const (
	magicSimpleReply     = 0x67446698
	magicStructuredReply = 0x668e33ef

	simpleReplyBytes = 16
	chunkHeaderBytes = 20

	chunkFlagDone = 1 << 0

	chunkNone        = 0
	chunkOffsetData  = 1
	chunkOffsetHole  = 2
	chunkBlockStatus = 5
	chunkError       = 1<<15 | 1
	chunkErrorOffset = 1<<15 | 2
)

// "Error values".
const (
	nbdOK        = 0
	nbdEPERM     = 1
	nbdEIO       = 5
	nbdENOMEM    = 12
	nbdEINVAL    = 22
	nbdENOSPC    = 28
	nbdEOVERFLOW = 75
	nbdENOTSUP   = 95
	nbdESHUTDOWN = 108
)
