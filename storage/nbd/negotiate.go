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
	rw         io.ReadWriter
	name       string
	size       int64
	noZeroes   bool
	structured bool
	meta       bool
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
		if length > maxOption {
			return fmt.Errorf("%w: option %d with %d bytes", ErrProtocol, opt, length)
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

// option answers one option; done means that transmission begins.
func (n *negotiation) option(opt uint32, data []byte) (done bool, err error) {
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
		n.structured = true
		return false, n.reply(opt, repAck, nil)
	case optListMeta, optSetMeta:
		return false, n.metaContext(opt, data)
	case optStartTLS:
		return false, n.reply(opt, repErrPolicy, []byte("a unix socket needs no TLS"))
	default:
		return false, n.reply(opt, repErrUnsup, nil)
	}
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
	flags := uint16(exportFlags)
	if n.structured {
		flags |= flagDF
	}
	b = binary.BigEndian.AppendUint64(b, uint64(n.size))
	return binary.BigEndian.AppendUint16(b, flags)
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
	if err != nil || !n.structured {
		return n.reply(opt, repErrInvalid, nil)
	}
	if !n.known(name) {
		return n.reply(opt, repErrUnknown, nil)
	}
	match := slices.Contains(queries, contextName)
	if opt == optListMeta {
		match = match || len(queries) == 0 || slices.Contains(queries, "base:")
	} else {
		n.meta = match
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
