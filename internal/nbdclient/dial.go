package nbdclient

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/pollux-dr/pollux/internal/fail"
)

// Dial connects to the export that a URI names (see ParseURI). conf is needed
// for nbds; its ServerName defaults to the host. Errors: Invalid (URI),
// NotFound (export), Denied (TLS), Retry (cannot connect).
func Dial(ctx context.Context, uri string, conf *tls.Config) (*Conn, error) {
	t, err := ParseURI(uri)
	if err != nil {
		return nil, err
	}
	if !t.TLS {
		conf = nil
	} else if conf == nil {
		return nil, fail.New(fail.Invalid, "dial", uri, "nbds needs a TLS configuration")
	}
	return DialAddr(ctx, t.Network, t.Addr, t.Export, conf)
}

// DialAddr connects to an export at an address; with conf, by TLS.
func DialAddr(ctx context.Context, network, addr, export string, conf *tls.Config) (*Conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, fail.Wrap(fail.Retry, "dial", addr, err)
	}
	if conf != nil && conf.ServerName == "" && network != "unix" {
		host, _, _ := net.SplitHostPort(addr)
		conf = conf.Clone()
		conf.ServerName = host
	}
	return NewConn(ctx, nc, export, conf)
}

// NewConn negotiates over a connection that is already there, and owns it.
func NewConn(ctx context.Context, nc net.Conn, export string, conf *tls.Config) (*Conn, error) {
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	h := &handshake{nc: nc, in: bufio.NewReaderSize(nc, receiveBufferBytes), raw: nc}
	err := h.run(ctx, export, conf)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = nc.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		kind := fail.Retry
		if k := fail.KindOf(err); k != fail.Internal {
			kind = k
		}
		return nil, fail.Wrap(kind, "negotiate", export, err)
	}
	return start(h), nil
}

// handshake is the client's side of "Newstyle negotiation".
type handshake struct {
	raw, nc net.Conn
	in      *bufio.Reader

	flags      uint16 // of the transmission phase
	sizeBytes  int64
	minBlock   uint32
	prefBlock  uint32
	maxPayload uint32
	structured bool
	allocation bool
	contextID  uint32
}

func (h *handshake) run(ctx context.Context, export string, conf *tls.Config) error {
	var b [18]byte
	if _, err := io.ReadFull(h.in, b[:]); err != nil {
		return err
	}
	serverFlags := binary.BigEndian.Uint16(b[16:])
	if binary.BigEndian.Uint64(b[:]) != magicInit || binary.BigEndian.Uint64(b[8:]) != magicOption ||
		serverFlags&handshakeFixedNewstyle == 0 {
		return fail.New(fail.Unsupported, "negotiate", "", "server does not speak NBD's fixed newstyle")
	}
	bits := uint32(serverFlags & (handshakeFixedNewstyle | handshakeNoZeroes))
	if _, err := h.nc.Write(binary.BigEndian.AppendUint32(nil, bits)); err != nil {
		return err
	}
	if conf != nil {
		if err := h.startTLS(ctx, conf); err != nil {
			return err
		}
	}
	err := h.option(optStructuredReply, nil, nil)
	h.structured = err == nil
	if err != nil && !errors.As(err, new(*optionError)) {
		return err
	}
	if h.structured {
		if err := h.selectAllocation(export); err != nil {
			return err
		}
	}
	return h.goExport(export)
}

func (h *handshake) startTLS(ctx context.Context, conf *tls.Config) error {
	if err := h.option(optStartTLS, nil, nil); err != nil {
		return fail.Wrap(fail.Denied, "start TLS", "", err)
	}
	if h.in.Buffered() > 0 {
		return fail.New(fail.Denied, "start TLS", "", "plain text after the server's consent")
	}
	tc := tls.Client(h.raw, conf)
	if err := tc.HandshakeContext(ctx); err != nil {
		return fail.Wrap(fail.Denied, "start TLS", "", err)
	}
	h.nc, h.in = tc, bufio.NewReaderSize(tc, receiveBufferBytes)
	return nil
}

func (h *handshake) selectAllocation(export string) error {
	b := appendString(nil, export)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = appendString(b, "base:allocation")
	err := h.option(optSetMetaContext, b, func(kind uint32, p []byte) {
		if kind == repMetaContext && len(p) >= 4 {
			h.allocation, h.contextID = true, binary.BigEndian.Uint32(p)
		}
	})
	if errors.As(err, new(*optionError)) {
		return nil // goExport says what is wrong, if anything
	}
	return err
}

func (h *handshake) goExport(export string) error {
	b := appendString(nil, export)
	b = binary.BigEndian.AppendUint16(b, 1)
	b = binary.BigEndian.AppendUint16(b, infoBlockSize)
	found := false
	err := h.option(optGo, b, func(kind uint32, p []byte) {
		if kind != repInfo || len(p) < 2 {
			return
		}
		switch info := binary.BigEndian.Uint16(p); {
		case info == infoExport && len(p) == 12:
			found = true
			h.sizeBytes = int64(binary.BigEndian.Uint64(p[2:]))
			h.flags = binary.BigEndian.Uint16(p[10:])
		case info == infoBlockSize && len(p) == 14:
			h.minBlock = binary.BigEndian.Uint32(p[2:])
			h.prefBlock = binary.BigEndian.Uint32(p[6:])
			h.maxPayload = binary.BigEndian.Uint32(p[10:])
		}
	})
	var oe *optionError
	switch {
	case errors.As(err, &oe) && oe.kind == repErrUnknown:
		return fail.Wrap(fail.NotFound, "open export", export, err)
	case errors.As(err, &oe):
		return fail.Wrap(fail.Refused, "open export", export, err)
	case err == nil && (!found || h.sizeBytes < 0):
		return errors.New("server told no export size")
	}
	return err
}

// optionError is the server's refusal of an option.
type optionError struct {
	option, kind uint32
	text         string
}

func (e *optionError) Error() string {
	return fmt.Sprintf("server refused option %d: error %d %s", e.option, e.kind&^repErr, e.text)
}

// option sends an option and hands the replies before the final one to each.
func (h *handshake) option(id uint32, data []byte, each func(kind uint32, p []byte)) error {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, id)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	if _, err := h.nc.Write(append(b, data...)); err != nil {
		return err
	}
	for {
		var r [20]byte
		if _, err := io.ReadFull(h.in, r[:]); err != nil {
			return err
		}
		kind, length := binary.BigEndian.Uint32(r[12:]), binary.BigEndian.Uint32(r[16:])
		if binary.BigEndian.Uint64(r[:]) != magicOptReply || binary.BigEndian.Uint32(r[8:]) != id ||
			length > maxReplyBytes {
			return errors.New("malformed option reply")
		}
		p := make([]byte, length)
		if _, err := io.ReadFull(h.in, p); err != nil {
			return err
		}
		switch {
		case kind == repAck:
			return nil
		case kind&repErr != 0:
			return &optionError{option: id, kind: kind, text: string(p)}
		case each != nil:
			each(kind, p)
		}
	}
}

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}
