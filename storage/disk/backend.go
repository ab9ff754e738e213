package disk

import (
	"context"
	"errors"

	"github.com/godwit-project/godwit/storage/disk/vfs"
	"github.com/godwit-project/godwit/storage/nbd"
)

// backend is what the NBD server sees of a disk.
type backend struct{ d *Disk }

var (
	_ nbd.Backend    = backend{}
	_ nbd.Prompt     = backend{}
	_ nbd.FastZeroer = backend{}
	_ nbd.Cacher     = backend{}
	_ nbd.Starter    = backend{}
)

// Backend offers the disk to an NBD server. A disk that was fenced hangs up: its clients are to ask elsewhere.
func (d *Disk) Backend() nbd.Backend {
	if file, ok := d.file.(vfs.Splicer); ok && d.sums == nil { // what has checksums must be looked at
		return splicing{backend{d}, file}
	}
	return backend{d}
}

// splicing is a backend whose content may be sent as it is.
type splicing struct {
	backend
	file vfs.Splicer
}

var _ nbd.Splicer = splicing{}

// SpliceAt implements nbd.Splicer. An error is not reported: who reads into memory meets it again.
func (b splicing) SpliceAt(pipe, n int, off int64) (int, error) {
	if b.d.fenced.Load() {
		return 0, nbd.ErrHangUp
	}
	if err := b.d.inside(off, int64(n)); err != nil {
		return 0, err
	}
	return b.file.SpliceAt(pipe, n, off)
}

// SpliceFrom implements nbd.Splicer.
func (b splicing) SpliceFrom(pipe, n int, off int64) error {
	err := b.d.inside(off, int64(n))
	if err == nil {
		err = b.d.writable()
	}
	if err != nil {
		return answer(err)
	}
	if err := b.file.SpliceFrom(pipe, n, off); err != nil {
		b.d.reportWrite(off, int64(n), err)
		return err
	}
	return nil
}

func answer(err error) error {
	if errors.Is(err, ErrFenced) {
		return nbd.ErrHangUp
	}
	return err
}

func (b backend) Size() int64 { return b.d.Size() }

func (b backend) ReadAt(_ context.Context, p []byte, off int64) error {
	_, err := b.d.ReadAt(p, off)
	return answer(err)
}

func (b backend) TryReadAt(p []byte, off int64) (bool, error) { return b.d.TryReadAt(p, off) }

func (b backend) WriteAt(_ context.Context, p []byte, off int64, fua bool) error {
	_, err := b.d.WriteAt(p, off)
	return b.settled(err, fua)
}

func (b backend) TryWriteAt(p []byte, off int64) (bool, error) {
	done, err := b.d.TryWriteAt(p, off)
	return done, answer(err)
}

// settled makes a change durable that was made, if fua asks for it.
func (b backend) settled(err error, fua bool) error {
	if err == nil && fua {
		err = b.d.Sync()
	}
	return answer(err)
}

func (b backend) Trim(_ context.Context, off, length int64, fua bool) error {
	return b.settled(b.d.Trim(off, length), fua)
}

func (b backend) Zero(_ context.Context, off, length int64, allocate, fua bool) error {
	return b.settled(b.d.Zero(off, length, allocate), fua)
}

func (b backend) ZeroFast(_ context.Context, off, length int64, allocate, fua bool) error {
	return b.settled(b.d.ZeroFast(off, length, allocate), fua)
}

// Cache reads the range, so that the page cache has it.
func (b backend) Cache(ctx context.Context, off, length int64) error {
	p := borrow(len(zeroes))
	defer scratch.Put(p)
	for length > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(length, int64(len(*p)))
		if err := b.ReadAt(ctx, (*p)[:n], off); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	return nil
}

func (b backend) StartFlush() { b.d.StartSync() }

func (b backend) Flush(context.Context) error { return answer(b.d.Sync()) }

func (b backend) Extents(_ context.Context, off, length int64, most int) ([]nbd.Extent, error) {
	var out []nbd.Extent
	end := off + length
	for off < end && len(out) < most {
		start, stop, ok, err := b.d.NextData(off)
		if err != nil {
			return nil, err
		}
		if start > off {
			hole := min(start, end) - off
			out = append(out, nbd.Extent{Length: hole, Hole: true, Zero: true})
			off += hole
		}
		if ok && off < end && len(out) < most {
			data := min(stop, end) - off
			out = append(out, nbd.Extent{Length: data})
			off += data
		}
	}
	return out, nil
}
