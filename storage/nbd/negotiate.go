package nbd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// errAborted means that the client ended the negotiation as the protocol allows.
var errAborted = errors.New("client ended the negotiation")

// negotiation is the first part of a connection: it ends with an export chosen, or not at all.
type negotiation struct {
	rw          io.ReadWriter
	name        string
	description string
	// startTLS turns rw into an encrypted connection; nil where there is none to be had.
	startTLS func() (io.ReadWriter, error)
	// plain refuses everything but STARTTLS and ABORT while it is false.
	plain bool

	noZeroes bool
	terms    terms
}

// run speaks until the client has chosen the export (nil) or gone.
func (n *negotiation) run() error {
	hello := binary.BigEndian.AppendUint64(nil, magicServer)
	hello = binary.BigEndian.AppendUint64(hello, magicOption)
	hello = binary.BigEndian.AppendUint16(hello, handshakeFixed|handshakeNoZeroes)
	if _, err := n.rw.Write(hello); err != nil {
		return err
	}
	var b [16]byte
	if _, err := io.ReadFull(n.rw, b[:4]); err != nil {
		return err
	}
	flags := binary.BigEndian.Uint32(b[:])
	if flags&^(handshakeFixed|handshakeNoZeroes) != 0 {
		return fmt.Errorf("%w: unknown client flags %#x", ErrProtocol, flags)
	}
	n.noZeroes = flags&handshakeNoZeroes != 0
	for {
		if _, err := io.ReadFull(n.rw, b[:]); err != nil {
			return err
		}
		if binary.BigEndian.Uint64(b[:]) != magicOption {
			return fmt.Errorf("%w: option without magic number", ErrProtocol)
		}
		opt, length := binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])
		if length > maxSkipped {
			return fmt.Errorf("%w: option %d with %d bytes", ErrProtocol, opt, length)
		}
		if length > maxOption && opt != optExportName {
			if err := n.tooBig(opt, length); err != nil {
				return err
			}
			continue
		}
		data := make([]byte, length)
		if _, err := io.ReadFull(n.rw, data); err != nil {
			return err
		}
		if done, err := n.option(opt, data); done || err != nil {
			return err
		}
	}
}

// tooBig takes an option off the wire and refuses it.
func (n *negotiation) tooBig(opt, length uint32) error {
	if _, err := io.CopyN(io.Discard, n.rw, int64(length)); err != nil {
		return err
	}
	return n.reply(opt, repErrTooBig, nil)
}

// option answers one option; done means that transmission begins.
func (n *negotiation) option(opt uint32, data []byte) (done bool, err error) {
	if !n.plain && opt != optStartTLS && opt != optAbort {
		if opt == optExportName {
			return false, fmt.Errorf("%w: the client chose an export without TLS", ErrProtocol)
		}
		return false, n.reply(opt, repErrTLS, []byte("this server wants TLS first"))
	}
	switch opt {
	case optExportName:
		return n.exportName(string(data))
	case optAbort:
		return false, errors.Join(n.reply(opt, repAck, nil), errAborted)
	case optList:
		return false, n.list(data)
	case optInfo, optGo:
		return n.info(opt, data)
	case optStructuredReply:
		if len(data) != 0 {
			return false, n.reply(opt, repErrInvalid, nil)
		}
		n.terms.structured = true
		return false, n.reply(opt, repAck, nil)
	case optListMeta, optSetMeta:
		return false, n.metaContext(opt, data)
	case optStartTLS:
		return false, n.encrypt(data)
	default:
		return false, n.reply(opt, repErrUnsup, nil)
	}
}

// encrypt begins TLS. Whatever was agreed upon before is void, as it could have come from anybody.
func (n *negotiation) encrypt(data []byte) error {
	switch {
	case len(data) != 0:
		return n.reply(optStartTLS, repErrInvalid, nil)
	case n.startTLS == nil:
		return n.reply(optStartTLS, repErrPolicy, []byte("there is no TLS on this socket"))
	}
	if err := n.reply(optStartTLS, repAck, nil); err != nil {
		return err
	}
	rw, err := n.startTLS()
	if err != nil {
		return fmt.Errorf("begin TLS: %w", err)
	}
	n.rw, n.startTLS, n.plain = rw, nil, true
	n.terms.structured, n.terms.meta = false, false
	return nil
}

// known says whether the export is ours: its name or the empty default.
func (n *negotiation) known(name string) bool { return name == "" || name == n.name }

func (n *negotiation) exportName(name string) (bool, error) {
	if !n.known(name) {
		return false, fmt.Errorf("%w: no export %q (this option knows no polite refusal)", ErrProtocol, name)
	}
	b := n.export(nil)
	if !n.noZeroes {
		b = append(b, make([]byte, 124)...)
	}
	_, err := n.rw.Write(b)
	return true, err
}

// export appends size and transmission flags.
func (n *negotiation) export(b []byte) []byte {
	if n.terms.structured {
		n.terms.flags |= flagDF
	}
	b = binary.BigEndian.AppendUint64(b, uint64(n.terms.size))
	return binary.BigEndian.AppendUint16(b, n.terms.flags)
}

func (n *negotiation) list(data []byte) error {
	if len(data) != 0 {
		return n.reply(optList, repErrInvalid, nil)
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(len(n.name)))
	if err := n.reply(optList, repServer, append(b, n.name...)); err != nil {
		return err
	}
	return n.reply(optList, repAck, nil)
}

func (n *negotiation) info(opt uint32, data []byte) (bool, error) {
	name, wanted, err := parseInfo(data)
	if err != nil {
		return false, n.reply(opt, repErrInvalid, nil)
	}
	if !n.known(name) {
		return false, n.reply(opt, repErrUnknown, fmt.Appendf(nil, "no export %q here, only %q", name, n.name))
	}
	infos := [][]byte{n.export(binary.BigEndian.AppendUint16(nil, infoExport))}
	if slices.Contains(wanted, infoName) {
		infos = append(infos, append(binary.BigEndian.AppendUint16(nil, infoName), n.name...))
	}
	if n.description != "" && slices.Contains(wanted, infoDescription) {
		infos = append(infos, append(binary.BigEndian.AppendUint16(nil, infoDescription), n.description...))
	}
	b := binary.BigEndian.AppendUint16(nil, infoBlockSize)
	for _, size := range []uint32{1, preferredBlock, MaxRequest} {
		b = binary.BigEndian.AppendUint32(b, size)
	}
	for _, info := range append(infos, b) {
		if err := n.reply(opt, repInfo, info); err != nil {
			return false, err
		}
	}
	return opt == optGo, n.reply(opt, repAck, nil)
}

func (n *negotiation) metaContext(opt uint32, data []byte) error {
	name, queries, err := parseMeta(data)
	if err != nil || !n.terms.structured {
		return n.reply(opt, repErrInvalid, nil)
	}
	if !n.known(name) {
		return n.reply(opt, repErrUnknown, nil)
	}
	match := slices.Contains(queries, contextName)
	if opt == optListMeta {
		match = match || len(queries) == 0 || slices.Contains(queries, "base:")
	} else {
		n.terms.meta = match
	}
	if match {
		id := uint32(0)
		if opt == optSetMeta {
			id = contextID
		}
		b := binary.BigEndian.AppendUint32(nil, id)
		if err := n.reply(opt, repMetaContext, append(b, contextName...)); err != nil {
			return err
		}
	}
	return n.reply(opt, repAck, nil)
}

func (n *negotiation) reply(opt, kind uint32, data []byte) error {
	b := binary.BigEndian.AppendUint64(nil, magicOptReply)
	b = binary.BigEndian.AppendUint32(b, opt)
	b = binary.BigEndian.AppendUint32(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	_, err := n.rw.Write(append(b, data...))
	return err
}
