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

var (
	_ nbd.Backend = client{}
	_ nbd.Starter = client{}
)

func (c client) Size() int64 { return c.v.size }

// ReadAt reads. A replica may be read too (the waiting QEMU looks at its disk); a fenced volume parks the request. What has rotted
// is fetched from a group's standby meanwhile.
func (c client) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := c.v.gate.enter(ctx); err != nil {
		return nbd.ErrHangUp
	}
	defer c.v.gate.leave()
	_, err := c.v.disk.ReadAt(p, off)
	if c.v.mend(ctx, off, int64(len(p)), err) {
		_, err = c.v.disk.ReadAt(p, off)
	}
	return answer(err)
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
		return answer(c.v.withDisk(c.v.disk.Sync))
	}
	number := m.group.promised()
	err := c.v.withDisk(c.v.disk.Sync)
	if err == nil {
		m.settled(number, true)
	}
	return answer(err)
}

// StartFlush implements nbd.Starter, while the gate is open.
func (c client) StartFlush() {
	if c.v.gate.tryEnter() {
		defer c.v.gate.leave()
		c.v.disk.StartSync()
	}
}

func (c client) Extents(ctx context.Context, off, length int64, most int) ([]nbd.Extent, error) {
	if err := c.v.gate.enter(ctx); err != nil {
		return nil, nbd.ErrHangUp
	}
	defer c.v.gate.leave()
	return c.v.disk.Backend().Extents(ctx, off, length, most)
}

// change is a write, or, without data, zeroes.
type change struct {
	off, length int64
	data        []byte
	allocate    bool // zeroes that keep their place on disk
	fua         bool
}

// write is the path of every change that a client makes: into the stream to the replica and onto the disk in one order,
// then, if asked for, onto stable storage at one end or both. A block that has rotted, and is written in part, is put right first.
func (v *Volume) write(ctx context.Context, c change) error {
	err := v.writeOnce(ctx, c)
	if v.mend(ctx, c.off, c.length, err) {
		err = v.writeOnce(ctx, c)
	}
	return err
}

func (v *Volume) writeOnce(ctx context.Context, c change) error {
	if m := v.member.Load(); m != nil {
		m.admit(ctx)
	}
	if err := v.gate.enter(ctx); err != nil {
		return nbd.ErrHangUp
	}
	defer v.gate.leave()
	if *v.role.Load() == RoleReplica { // asked inside, as a primary may have been demoted while the request was parked
		return fmt.Errorf("volume %s is a replica until promoted: %w", v.name, syscall.EPERM)
	}
	if c.length == 0 {
		return nil
	}
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
		err = v.disk.Sync()
	}
	if err == nil && sent.link != nil {
		src.settled(sent)
	}
	if err == nil && m != nil {
		m.settled(number, c.fua)
	}
	return answer(err)
}

// apply makes the change on the disk.
func (v *Volume) apply(c *change) error {
	if c.data == nil {
		return v.disk.Zero(c.off, c.length, c.allocate)
	}
	_, err := v.disk.WriteAt(c.data, c.off)
	return err
}
