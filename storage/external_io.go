package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/godwit-project/godwit/storage/disk"
	"github.com/godwit-project/godwit/storage/nbd"
)

// pageSize is what reads past the page cache are aligned to, in bytes.
const pageSize = 4096

// externalClient is what the NBD server sees of an external disk.
type externalClient struct{ x *External }

var (
	_ nbd.Backend = externalClient{}
	_ nbd.Prompt  = externalClient{}
	_ nbd.Starter = externalClient{}
)

func (c externalClient) Size() int64 { return c.x.size }

// inside calls f with the disk, or with nil while this host waits for it. Of a fenced one the request is parked.
func (c externalClient) inside(ctx context.Context, f func(d *disk.Disk) error) error {
	if err := c.x.gate.enter(ctx); err != nil {
		return nbd.ErrHangUp
	}
	defer c.x.gate.leave()
	return answer(f(c.x.disk.Load()))
}

// change is inside for what only the user of the disk may do.
func (c externalClient) change(ctx context.Context, fua bool, f func(d *disk.Disk) error) error {
	return c.inside(ctx, func(d *disk.Disk) error {
		if d == nil {
			return fmt.Errorf("external disk %s is another host's: %w", c.x.name, syscall.EPERM)
		}
		err := f(d)
		if err == nil && fua {
			err = d.Sync()
		}
		return err
	})
}

// ReadAt reads. Also who waits may: the QEMU that is to use the disk looks at it.
func (c externalClient) ReadAt(ctx context.Context, p []byte, off int64) error {
	began := time.Now()
	err := c.inside(ctx, func(d *disk.Disk) error { return c.x.read(d, p, off) })
	c.x.counts.reads.add(began, int64(len(p)), err)
	return err
}

func (c externalClient) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	began := time.Now()
	err := c.change(ctx, fua, func(d *disk.Disk) error {
		_, err := d.WriteAt(p, off)
		return err
	})
	c.x.counts.writes.add(began, int64(len(p)), err)
	return err
}

// Trim drops the range, which reads as zeroes then.
func (c externalClient) Trim(ctx context.Context, off, length int64, fua bool) error {
	return c.Zero(ctx, off, length, false, fua)
}

func (c externalClient) Zero(ctx context.Context, off, length int64, allocate, fua bool) error {
	began := time.Now()
	err := c.change(ctx, fua, func(d *disk.Disk) error { return d.Zero(off, length, allocate) })
	c.x.counts.discards.add(began, length, err)
	return err
}

// Flush is answered in every role: a fenced disk is synced before another host has it.
func (c externalClient) Flush(ctx context.Context) error {
	began := time.Now()
	err := answer(c.x.Sync(ctx))
	c.x.counts.flushes.add(began, 0, err)
	return err
}

// StartFlush implements nbd.Starter, while this host is the disk's user.
func (c externalClient) StartFlush() {
	if !c.x.gate.tryEnter() {
		return
	}
	defer c.x.gate.leave()
	if d := c.x.disk.Load(); d != nil {
		d.StartSync()
	}
}

func (c externalClient) Extents(ctx context.Context, off, length int64, most int) (out []nbd.Extent, err error) {
	err = c.inside(ctx, func(d *disk.Disk) (err error) {
		if d == nil {
			out = []nbd.Extent{{Length: length}}
			return nil
		}
		out, err = d.Backend().Extents(ctx, off, length, most)
		return err
	})
	return out, err
}

func (c externalClient) TryReadAt(p []byte, off int64) (done bool, err error) {
	return c.try(&c.x.counts.reads, len(p), func(d *disk.Disk) (bool, error) { return d.TryReadAt(p, off) })
}

func (c externalClient) TryWriteAt(p []byte, off int64) (done bool, err error) {
	return c.try(&c.x.counts.writes, len(p), func(d *disk.Disk) (bool, error) { return d.TryWriteAt(p, off) })
}

// try does at once what need not wait.
func (c externalClient) try(count *requestCount, n int, f func(*disk.Disk) (bool, error)) (done bool, err error) {
	if !c.x.gate.tryEnter() {
		return false, nil
	}
	defer c.x.gate.leave()
	d := c.x.disk.Load()
	if d == nil {
		return false, nil
	}
	began := time.Now()
	if done, err = f(d); done {
		err = answer(err)
		count.add(began, int64(n), err)
	}
	return done, err
}

// read reads from the disk that is used here, or else past this machine's memory, where it would grow old.
func (x *External) read(d *disk.Disk, p []byte, off int64) error {
	if d != nil {
		_, err := d.ReadAt(p, off)
		return err
	}
	fd, err := unix.Open(x.path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) { // the file system has nothing but memory
		fd, err = unix.Open(x.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: x.path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }() // nothing was written
	start := off / pageSize * pageSize
	wide := aligned(int((off+int64(len(p))+pageSize-1)/pageSize*pageSize - start))
	for done := 0; done < len(wide); {
		n, err := unix.Pread(fd, wide[done:], start+int64(done))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return &os.PathError{Op: "read", Path: x.path, Err: err}
		case n == 0 && start+int64(done) < off+int64(len(p)):
			return &os.PathError{Op: "read", Path: x.path, Err: io.ErrUnexpectedEOF}
		case n == 0 || n%pageSize != 0: // the end
			done = len(wide)
		}
		done += n
	}
	copy(p, wide[off-start:])
	return nil
}

// aligned is n bytes that begin where the kernel can read to without a copy.
func aligned(n int) []byte {
	b := make([]byte, n+pageSize)
	skip := (pageSize - int(uintptr(unsafe.Pointer(&b[0]))%pageSize)) % pageSize
	return b[skip : skip+n]
}

// hear takes what the disk has to tell.
func (x *External) hear(e disk.Event) {
	x.faults.note(e)
	x.log.Error("an external disk reports", "event", e.String())
}
