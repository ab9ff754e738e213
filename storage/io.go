package storage

import (
	"context"
	"fmt"
	"syscall"

	"github.com/godwit-project/godwit/storage/changes"
	"github.com/godwit-project/godwit/storage/nbd"
)

// client is what the NBD server sees of a volume.
type client struct{ v *Volume }

var _ nbd.Backend = client{}

func (c client) Size() int64 { return c.v.size }

// ReadAt reads. A replica may be read too (the waiting QEMU looks at its disk); a fenced volume parks the request.
func (c client) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := c.v.gate.enter(ctx); err != nil {
		return nbd.ErrHangUp
	}
	defer c.v.gate.leave()
	_, err := c.v.file.ReadAt(p, off)
	return err
}

func (c client) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	return c.v.write(ctx, change{off: off, length: int64(len(p)), data: p, fua: fua})
}

// Trim drops the range, which then reads as zeroes here and at the replica.
func (c client) Trim(ctx context.Context, off, length int64, fua bool) error {
	return c.v.write(ctx, change{off: off, length: length, fua: fua})
}

func (c client) Zero(ctx context.Context, off, length int64, allocate, fua bool) error {
	return c.v.write(ctx, change{off: off, length: length, allocate: allocate, fua: fua})
}

// Flush is answered in every role, a fenced volume's too: it lets nothing in, and what it promises is true. In sync mode
// there is nothing to ask of the replica, since each acknowledged write is on stable storage there already.
func (c client) Flush(context.Context) error {
	m := c.v.member.Load()
	if m == nil || m.group == nil {
		return c.v.local.sync()
	}
	number := m.group.promised()
	err := c.v.local.sync()
	if err == nil {
		m.settled(number, true)
	}
	return err
}

func (c client) Extents(ctx context.Context, off, length int64, most int) ([]nbd.Extent, error) {
	if err := c.v.gate.enter(ctx); err != nil {
		return nil, nbd.ErrHangUp
	}
	defer c.v.gate.leave()
	var out []nbd.Extent
	end := off + length
	for off < end && len(out) < most {
		start, stop, ok, err := nextData(c.v.file, off, c.v.size)
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

// change is a write, or, without data, zeroes.
type change struct {
	off, length int64
	data        []byte
	allocate    bool // zeroes that keep their place on disk
	fua         bool
}

// write is the path of every change that a client makes: into the stream to the replica and into the file in one order,
// then, if asked for, onto stable storage at one end or both.
func (v *Volume) write(ctx context.Context, c change) error {
	if *v.role.Load() == RoleReplica {
		return fmt.Errorf("volume %s is a replica until promoted: %w", v.name, syscall.EPERM)
	}
	if c.length == 0 {
		return nil
	}
	if m := v.member.Load(); m != nil {
		m.admit(ctx)
	}
	if err := v.gate.enter(ctx); err != nil {
		return nbd.ErrHangUp
	}
	defer v.gate.leave()
	first := c.off / changes.BlockSize * changes.BlockSize
	held := v.ranges.lock(first, wholeBlocks(c.off+c.length-first))
	src, m := v.source.Load(), v.member.Load()
	number := uint64(0)
	if m != nil {
		number = m.begin(c.off, c.length)
	}
	var sent ticket
	if src != nil {
		sent = src.mirror(&c)
	}
	err := v.apply(&c)
	if src != nil && (sent.link == nil || err != nil) {
		src.mark(c.off, c.length)
	}
	v.ranges.unlock(held)
	if err == nil && (c.fua || sent.link != nil || m != nil && m.mirrors()) {
		err = v.local.sync()
	}
	if err == nil && sent.link != nil {
		src.settled(sent)
	}
	if err == nil && m != nil {
		m.settled(number, c.fua)
	}
	return err
}

// apply makes the change in the base file.
func (v *Volume) apply(c *change) error {
	if c.data == nil {
		return zeroRange(v.file, c.off, c.length, c.allocate)
	}
	_, err := v.file.WriteAt(c.data, c.off)
	return err
}
