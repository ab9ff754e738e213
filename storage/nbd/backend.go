// Package nbd serves block devices over the Network Block Device protocol (fixed newstyle negotiation) to QEMU and other
// clients, on listeners that the caller opens.
//
// It follows the public protocol document (github.com/NetworkBlockDevice/nbd, doc/proto.md): options EXPORT_NAME, GO, INFO,
// LIST, ABORT, STARTTLS, STRUCTURED_REPLY, LIST_META_CONTEXT and SET_META_CONTEXT (base:allocation); commands READ, WRITE,
// FLUSH, TRIM, WRITE_ZEROES (NO_HOLE, FAST_ZERO), CACHE, BLOCK_STATUS and DISC; FUA on all of them; read-only exports;
// several connections per export and several requests in flight on each.
//
// How it is fast: a backend that is [Prompt] is asked on the goroutine that reads the connection; what would have to wait goes
// to a goroutine of its own. Answers are collected while requests are at hand and leave in one write.
//
// What may not enter: volumes, epochs, replication, and where the bytes come from. A backend that wants a request to wait
// simply does not return; a backend that must not answer at all returns [ErrHangUp] and the connection is cut, which clients
// such as QEMU with reconnect-delay treat as a pause.
package nbd

import (
	"context"
	"errors"
	"syscall"
)

var (
	// ErrHangUp, returned by a backend, cuts the connection without an answer to the request.
	ErrHangUp = errors.New("hang up")
	// ErrProtocol means that the client does not speak NBD as the document says.
	ErrProtocol = errors.New("NBD protocol violation")
)

// Extent is a run of bytes that are alike.
type Extent struct {
	Length int64
	// Hole says that nothing is allocated; Zero that the run reads as zeroes.
	Hole, Zero bool
}

// Backend is one block device. All offsets and lengths are bytes, checked to lie within Size before the call. Methods are
// called from several goroutines at once. Errors that wrap a [syscall.Errno] or [context] errors are passed on to the client
// as the nearest NBD error, others as EIO.
//
// With fua, the call returns only when the change is on stable storage.
type Backend interface {
	// Size is constant while the export lives.
	Size() int64
	ReadAt(ctx context.Context, p []byte, off int64) error
	WriteAt(ctx context.Context, p []byte, off int64, fua bool) error
	// Trim may drop the content of the range.
	Trim(ctx context.Context, off, length int64, fua bool) error
	// Zero makes the range read as zeroes, keeping it allocated if allocate is set.
	Zero(ctx context.Context, off, length int64, allocate, fua bool) error
	// Flush returns when every write that was answered before the call is on stable storage.
	Flush(ctx context.Context) error
	// Extents describes the range from off on, in order, at most max runs; it may stop before the end of the range.
	Extents(ctx context.Context, off, length int64, max int) ([]Extent, error)
}

// Prompt is what a [Backend] may offer besides, if it can tell what is done at once from what has to wait (for a disk, a lock,
// another machine). With done false nothing has happened, and the request comes again by way of Backend's own methods.
type Prompt interface {
	TryReadAt(p []byte, off int64) (done bool, err error)
	// TryWriteAt is never asked for writes with FUA. p may be kept no longer than the call.
	TryWriteAt(p []byte, off int64) (done bool, err error)
}

// Starter is what a [Backend] may offer besides, if it can begin what a Flush will wait for.
type Starter interface {
	// StartFlush is called on the goroutine that reads the connection, which it must not keep; what fails, Flush says.
	StartFlush()
}

// FastZeroer is what a [Backend] may offer besides, if it can make zeroes in less time than it takes to write them.
type FastZeroer interface {
	// ZeroFast is Zero, or an error that wraps [syscall.EOPNOTSUPP], quickly and with nothing done.
	ZeroFast(ctx context.Context, off, length int64, allocate, fua bool) error
}

// Cacher is what a [Backend] may offer besides, if reading ahead is of use to it.
type Cacher interface {
	// Cache is told that the range will be read soon.
	Cache(ctx context.Context, off, length int64) error
}

// Numbers of the protocol's errors.
const (
	errPerm     = 1
	errIO       = 5
	errNoMem    = 12
	errInval    = 22
	errNoSpace  = 28
	errOverflow = 75
	errNotSup   = 95
	errShutdown = 108
)

// errno translates a backend's error into the protocol's.
func errno(err error) uint32 {
	var e syscall.Errno
	if !errors.As(err, &e) {
		return errIO
	}
	switch e {
	case syscall.EPERM, syscall.EACCES, syscall.EROFS:
		return errPerm
	case syscall.ENOMEM:
		return errNoMem
	case syscall.EINVAL:
		return errInval
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG:
		return errNoSpace
	case syscall.EOPNOTSUPP:
		return errNotSup
	case syscall.EOVERFLOW:
		return errOverflow
	case syscall.ESHUTDOWN:
		return errShutdown
	default:
		return errIO
	}
}
