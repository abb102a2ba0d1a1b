package nbd

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/pollux-dr/pollux/internal/block"
	"github.com/pollux-dr/pollux/internal/fail"
)

// open finds an export's device and checks that the protocol can express it.
func (n *negotiation) open(ctx context.Context, name string) (block.Device, block.Info, error) {
	dev, err := n.c.srv.opts.Exports.Open(ctx, name)
	if err != nil {
		return nil, block.Info{}, err
	}
	info := dev.Info()
	info.MinBlockBytes = max(info.MinBlockBytes, 1)
	if info.PrefBlockBytes < info.MinBlockBytes {
		info.PrefBlockBytes = max(4096, info.MinBlockBytes)
	}
	if info.SizeBytes < 0 {
		return nil, info, fail.New(fail.Internal, "serve", name, "negative size")
	}
	return dev, info, nil
}

// begin makes dev the connection's device.
func (n *negotiation) begin(name string, dev block.Device, info block.Info) {
	n.c.structured = n.structured
	n.c.allocation = n.meta && n.metaExport == name
	n.c.setExport(name, dev, info)
}

// exportName is NBD_OPT_EXPORT_NAME, which knows no error but hanging up.
func (n *negotiation) exportName(ctx context.Context, data []byte) (bool, error) {
	if len(data) > maxStringBytes {
		return false, fmt.Errorf("export name of %d bytes", len(data))
	}
	name := string(data)
	dev, info, err := n.open(ctx, name)
	if err != nil {
		return false, err
	}
	if !n.c.enter() {
		return false, errDone
	}
	n.out = binary.BigEndian.AppendUint64(n.out, uint64(info.SizeBytes))
	n.out = binary.BigEndian.AppendUint16(n.out, transmissionFlags(info, n.structured))
	if n.clientBits&handshakeNoZeroes == 0 {
		n.out = append(n.out, make([]byte, 124)...)
	}
	n.begin(name, dev, info)
	return true, nil
}

// list is NBD_OPT_LIST.
func (n *negotiation) list(ctx context.Context, data []byte) {
	if len(data) != 0 {
		n.reply(optList, repErrInvalid, []byte("unexpected data"))
		return
	}
	for _, e := range n.c.srv.opts.Exports.List(ctx) {
		if len(e.Name) > maxStringBytes {
			continue // no client could ask for it
		}
		b := appendString(nil, e.Name)
		b = append(b, clip(e.Description)...)
		n.reply(optList, repServer, b)
	}
	n.reply(optList, repAck, nil)
}

// info is NBD_OPT_INFO and NBD_OPT_GO.
func (n *negotiation) info(ctx context.Context, id uint32, data []byte) (bool, error) {
	d := decoder{b: data}
	name := d.str()
	want := make(map[uint16]bool)
	for range d.u16() {
		want[d.u16()] = true
	}
	if d.bad || len(d.b) != 0 {
		n.reply(id, repErrInvalid, []byte("malformed request"))
		return false, nil
	}
	dev, info, err := n.open(ctx, name)
	if err != nil {
		n.refuse(id, name, err)
		return false, nil
	}

	if id == optGo && !n.c.enter() {
		n.reply(id, repErrPolicy, []byte("too many connections"))
		return false, nil
	}
	b := binary.BigEndian.AppendUint16(nil, infoExport)
	b = binary.BigEndian.AppendUint64(b, uint64(info.SizeBytes))
	b = binary.BigEndian.AppendUint16(b, transmissionFlags(info, n.structured))
	n.reply(id, repInfo, b)
	if want[infoName] {
		n.reply(id, repInfo, append([]byte{0, infoName}, name...))
	}
	if want[infoDescription] && info.Description != "" {
		n.reply(id, repInfo, append([]byte{0, infoDescription}, clip(info.Description)...))
	}
	if want[infoBlockSize] {
		b := binary.BigEndian.AppendUint16(nil, infoBlockSize)
		b = binary.BigEndian.AppendUint32(b, info.MinBlockBytes)
		b = binary.BigEndian.AppendUint32(b, info.PrefBlockBytes)
		b = binary.BigEndian.AppendUint32(b, uint32(n.c.srv.opts.MaxPayloadBytes))
		n.reply(id, repInfo, b)
	}
	n.reply(id, repAck, nil)
	if id == optInfo {
		return false, nil
	}
	n.begin(name, dev, info)
	return true, nil
}

// metaContext is NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT. Only
// listing knows wildcards: no query at all and "base:".
func (n *negotiation) metaContext(ctx context.Context, id uint32, data []byte) {
	d := decoder{b: data}
	name := d.str()
	count := d.u32()
	list := id == optListMetaContext
	match := list && count == 0
	for i := uint32(0); i < count && !d.bad; i++ {
		q := d.str()
		match = match || q == metaBaseAllocation || list && (q == "" || q == "base:")
	}
	if id == optSetMetaContext {
		n.meta = false // a failed selection leaves none: "NBD_OPT_SET_META_CONTEXT"
	}
	switch {
	case d.bad || len(d.b) != 0:
		n.reply(id, repErrInvalid, []byte("malformed request"))
		return
	case !n.structured && !list:
		n.reply(id, repErrInvalid, []byte("negotiate structured replies first"))
		return
	}
	if _, _, err := n.open(ctx, name); err != nil {
		n.refuse(id, name, err)
		return
	}
	if match {
		contextID := uint32(metaBaseID)
		if list {
			contextID = 0 // reserved in listings
		} else {
			n.meta, n.metaExport = true, name
		}
		b := binary.BigEndian.AppendUint32(nil, contextID)
		n.reply(id, repMetaContext, append(b, metaBaseAllocation...))
	}
	n.reply(id, repAck, nil)
}

// refuse answers an option whose export cannot be opened. Details stay in the
// log: the client may be anybody.
func (n *negotiation) refuse(id uint32, name string, err error) {
	if fail.Is(err, fail.NotFound) {
		n.reply(id, repErrUnknown, []byte("no such export"))
		return
	}
	n.c.log.Warn("nbd: export refused", "export", name, "err", err)
	n.reply(id, repErrPolicy, []byte("export is not available"))
}

// transmissionFlags says what the client may send; what a read-only export
// would refuse anyhow is not offered, and DF has no meaning in simple replies.
func transmissionFlags(info block.Info, structured bool) uint16 {
	f := uint16(flagHasFlags | flagSendFlush | flagCanMultiConn | flagSendCache)
	if structured {
		f |= flagSendDF
	}
	if info.ReadOnly {
		return f | flagReadOnly
	}
	return f | flagSendFUA | flagSendTrim | flagSendWriteZeroes | flagSendFastZero
}

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

func clip(s string) string { return s[:min(len(s), maxStringBytes)] }

// decoder takes an option's data apart. After bad is set, all that it returns
// is empty.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n uint32) []byte {
	if d.bad || uint64(n) > uint64(len(d.b)) {
		d.bad = true
		return nil
	}
	p := d.b[:n]
	d.b = d.b[n:]
	return p
}

func (d *decoder) u16() uint16 {
	if p := d.take(2); p != nil {
		return binary.BigEndian.Uint16(p)
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if p := d.take(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

func (d *decoder) str() string {
	n := d.u32()
	if n > maxStringBytes {
		d.bad = true
	}
	return string(d.take(n))
}
