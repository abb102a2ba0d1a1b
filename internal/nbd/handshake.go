package nbd

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	maxOptionBytes  = 64 << 10 // of one option's data
	maxSkippedBytes = 1 << 20  // of data of an option that is refused
	maxOptions      = 256      // of one negotiation
)

// errDone ends a negotiation in good order without a transmission phase.
var errDone = errors.New("client ended the negotiation")

// negotiation is the state of the handshake: "Newstyle negotiation".
type negotiation struct {
	c          *conn
	clientBits uint32
	secure     bool // TLS is on
	structured bool
	metaExport string // the export for which base:allocation was selected
	meta       bool
	out        []byte // replies to the option in work
}

// negotiate runs the handshake. After a nil error the connection has a device
// and is in the transmission phase.
func (c *conn) negotiate() error {
	deadline := time.Now().Add(c.srv.opts.HandshakeTimeout)
	_ = c.raw.SetDeadline(deadline)
	if c.draining.Load() {
		return errDone
	}
	ctx, cancel := context.WithDeadline(c.ctx, deadline)
	defer cancel()

	n := &negotiation{c: c}
	if err := n.greet(); err != nil {
		return err
	}
	for range maxOptions {
		done, err := n.option(ctx)
		if done || err != nil {
			return err
		}
	}
	return errors.New("too many options")
}

func (n *negotiation) greet() error {
	var b []byte
	b = binary.BigEndian.AppendUint64(b, magicInit)
	b = binary.BigEndian.AppendUint64(b, magicOption)
	b = binary.BigEndian.AppendUint16(b, handshakeFixedNewstyle|handshakeNoZeroes)
	if _, err := n.c.nc.Write(b); err != nil {
		return err
	}
	p, err := n.c.in.Peek(4)
	if err != nil {
		return err
	}
	n.clientBits = binary.BigEndian.Uint32(p)
	_, _ = n.c.in.Discard(4)
	if n.clientBits&^(handshakeFixedNewstyle|handshakeNoZeroes) != 0 {
		return fmt.Errorf("unknown client flags %#x", n.clientBits)
	}
	return nil
}

// option reads one option and answers it. It returns true when the transmission
// phase begins.
func (n *negotiation) option(ctx context.Context) (bool, error) {
	p, err := n.c.in.Peek(16)
	if err != nil {
		return false, err
	}
	magic, id, length := binary.BigEndian.Uint64(p), binary.BigEndian.Uint32(p[8:]), binary.BigEndian.Uint32(p[12:])
	_, _ = n.c.in.Discard(16)
	if magic != magicOption {
		return false, fmt.Errorf("bad option magic %#x", magic)
	}
	if length > maxOptionBytes {
		if length > maxSkippedBytes || id == optExportName {
			return false, fmt.Errorf("option %d of %d bytes", id, length)
		}
		if _, err := n.c.in.Discard(int(length)); err != nil {
			return false, err
		}
		n.reply(id, repErrTooBig, []byte("option too long"))
		return false, n.send()
	}
	data := make([]byte, length)
	if _, err := io.ReadFull(n.c.in, data); err != nil {
		return false, err
	}
	done, err := n.answer(ctx, id, data)
	if err != nil {
		return false, err
	}
	return done, n.send()
}

func (n *negotiation) answer(ctx context.Context, id uint32, data []byte) (bool, error) {
	if n.mustSecure() && id != optStartTLS && id != optAbort {
		if id == optExportName {
			return false, errors.New("plain text refused")
		}
		n.reply(id, repErrTLSReqd, []byte("use NBD_OPT_STARTTLS first"))
		return false, nil
	}
	switch id {
	case optExportName:
		return n.exportName(ctx, data)
	case optAbort:
		n.reply(id, repAck, nil)
		_ = n.send() // the client may not wait for it
		return false, errDone
	case optList:
		n.list(ctx, data)
	case optStartTLS:
		return false, n.startTLS(ctx, data)
	case optInfo, optGo:
		return n.info(ctx, id, data)
	case optStructuredReply:
		if len(data) != 0 {
			n.reply(id, repErrInvalid, []byte("unexpected data"))
			break
		}
		n.structured = true
		n.reply(id, repAck, nil)
	case optListMetaContext, optSetMetaContext:
		n.metaContext(ctx, id, data)
	default:
		n.reply(id, repErrUnsup, []byte("unknown option"))
	}
	return false, nil
}

func (n *negotiation) mustSecure() bool {
	return n.c.srv.opts.RequireTLS && !n.secure && !isUnix(n.c.raw)
}

// startTLS upgrades the connection. What was agreed in plain text is forgotten,
// and plain text that was sent ahead must not be taken for the client's
// protected requests: "NBD_OPT_STARTTLS".
func (n *negotiation) startTLS(ctx context.Context, data []byte) error {
	conf := n.c.srv.opts.TLS
	switch {
	case len(data) != 0 || n.secure:
		n.reply(optStartTLS, repErrInvalid, []byte("TLS is on or there is unexpected data"))
		return nil
	case conf == nil:
		n.reply(optStartTLS, repErrPolicy, []byte("TLS is not configured"))
		return nil
	case n.c.in.Buffered() > 0:
		return errors.New("plain text after NBD_OPT_STARTTLS")
	}
	n.reply(optStartTLS, repAck, nil)
	if err := n.send(); err != nil {
		return err
	}
	tc := tls.Server(n.c.snd, conf)
	if err := tc.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	*n = negotiation{c: n.c, clientBits: n.clientBits, secure: true}
	n.c.nc = tc
	n.c.in = bufio.NewReaderSize(tc, receiveBufferBytes)
	return nil
}

// reply appends an option reply; errors carry text for people.
func (n *negotiation) reply(option, kind uint32, data []byte) {
	n.out = binary.BigEndian.AppendUint64(n.out, magicOptReply)
	n.out = binary.BigEndian.AppendUint32(n.out, option)
	n.out = binary.BigEndian.AppendUint32(n.out, kind)
	n.out = binary.BigEndian.AppendUint32(n.out, uint32(len(data)))
	n.out = append(n.out, data...)
}

func (n *negotiation) send() error {
	if len(n.out) == 0 {
		return nil
	}
	_, err := n.c.nc.Write(n.out)
	n.out = n.out[:0]
	return err
}
