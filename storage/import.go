package storage

import (
	"context"
	"fmt"
	"os"
)

// importChunk is how much Import copies at a time, in bytes.
const importChunk = 1 << 20

// Import fills a primary with the raw image at path: its data is copied, its holes stay holes, and the volume beyond it reads
// as zeroes. What the volume held is lost. It needs the volume for itself (no clients, no replication) and returns when the
// content is on stable storage. progress, which may be nil, is told the bytes of data copied and to copy.
func (v *Volume) Import(ctx context.Context, path string, progress func(done, total int64)) error {
	if err := v.importFrom(ctx, path, progress); err != nil {
		return fmt.Errorf("import %s into volume %s: %w", path, v.name, err)
	}
	return nil
}

func (v *Volume) importFrom(ctx context.Context, path string, progress func(done, total int64)) error {
	if st := v.Status(); st.Role != RolePrimary {
		return fmt.Errorf("%w: %s", ErrRole, st.Role)
	} else if st.Clients > 0 || st.Mode != ModeLocal {
		return fmt.Errorf("%w: %d clients, mode %s", ErrBusy, st.Clients, st.Mode)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, 2) // block devices tell their size only so
	if err != nil {
		return err
	}
	if size > v.size {
		return fmt.Errorf("the image has %d bytes, the volume %d: make the volume larger", size, v.size)
	}
	var extents []span
	total := int64(0)
	for off := int64(0); off < size; {
		start, end, ok, err := nextData(f, off, size)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		extents = append(extents, span{start, end})
		total += end - start
		off = end
	}
	if m := v.member.Load(); m != nil && m.group != nil {
		return fmt.Errorf("%w: it is in group %s: unprotect that first", ErrBusy, m.group.name)
	} else if m != nil {
		m.marks.Mark(0, v.size)
	}
	held := v.ranges.lock(0, v.size)
	defer v.ranges.unlock(held)
	if err := zeroRange(v.file, 0, v.size, false); err != nil {
		return err
	}
	if err := copyExtents(ctx, v.file, f, extents, func(done int64) {
		if progress != nil {
			progress(done, total)
		}
	}); err != nil {
		return err
	}
	return v.local.sync()
}

// copyExtents copies the ranges from one file to the same place in another, leaving out blocks of zeroes; the target reads
// as zeroes before.
func copyExtents(ctx context.Context, to, from *os.File, extents []span, progress func(done int64)) error {
	buf := make([]byte, importChunk)
	done := int64(0)
	for _, e := range extents {
		for off := e.off; off < e.end; {
			if err := ctx.Err(); err != nil {
				return err
			}
			p := buf[:min(e.end-off, int64(len(buf)))]
			if _, err := from.ReadAt(p, off); err != nil {
				return err
			}
			if !isZero(p) {
				if _, err := to.WriteAt(p, off); err != nil {
					return err
				}
			}
			off += int64(len(p))
			done += int64(len(p))
			progress(done)
		}
	}
	return nil
}
