package storage

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"syscall"

	"github.com/godwit-project/godwit/storage/journal"
	"github.com/godwit-project/godwit/storage/nbd"
)

// CutView is one volume as it was at a cut, read-only, in the form that storage/nbd serves.
type CutView struct {
	view *journal.View
	vol  int
	size int64
}

var _ nbd.Backend = (*CutView)(nil)

// OpenCut opens a volume of the standby as it was at a cut. The cut is kept until Close.
func (b *Standby) OpenCut(cut, volume string) (*CutView, error) {
	for i, v := range b.volumes {
		if v.name != volume {
			continue
		}
		view, err := b.journal.OpenCut(cut)
		if err != nil {
			return nil, err
		}
		return &CutView{view: view, vol: i, size: v.size}, nil
	}
	return nil, fmt.Errorf("open cut %s: volume %s: %w", cut, volume, ErrNotFound)
}

// Close lets the cut go; nothing may be read any more.
func (c *CutView) Close() error {
	c.view.Close()
	return nil
}

// ServeConn answers an NBD client, which may only read, until it leaves or ctx ends, and closes the connection.
func (c *CutView) ServeConn(ctx context.Context, over net.Conn, export string, log *slog.Logger) {
	nbd.ServeConn(ctx, over, c, nbd.Options{Name: export, ReadOnly: true, Logger: log})
}

// Size implements nbd.Backend.
func (c *CutView) Size() int64 { return c.size }

// ReadAt implements nbd.Backend.
func (c *CutView) ReadAt(_ context.Context, p []byte, off int64) error {
	return c.view.ReadAt(c.vol, p, off)
}

// WriteAt implements nbd.Backend; it is refused.
func (c *CutView) WriteAt(context.Context, []byte, int64, bool) error { return errReadOnly }

// Trim implements nbd.Backend; it is refused.
func (c *CutView) Trim(context.Context, int64, int64, bool) error { return errReadOnly }

// Zero implements nbd.Backend; it is refused.
func (c *CutView) Zero(context.Context, int64, int64, bool, bool) error { return errReadOnly }

// Flush implements nbd.Backend.
func (c *CutView) Flush(context.Context) error { return nil }

// Extents implements nbd.Backend: all of it is data.
func (c *CutView) Extents(_ context.Context, _, length int64, _ int) ([]nbd.Extent, error) {
	return []nbd.Extent{{Length: length}}, nil
}

var errReadOnly = fmt.Errorf("a cut is read-only: %w", syscall.EPERM)
