package storage

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/godwit-project/godwit/storage/nbd"
	"github.com/godwit-project/godwit/unixsocket"
)

// Serve exports the volume over NBD on the unix socket at that path, and again whenever the store is opened. The same path
// again is a success; another one moves the export there, cutting its connections. A stale socket of a dead process is
// replaced, a live one is an error. The folder is made if need be.
//
// A replica's export advertises itself writable and answers writes with EPERM until it is promoted, without losing its
// connections; a fenced volume's parks every request but FLUSH.
func (v *Volume) Serve(socket string) error {
	if len(socket) > unixsocket.Longest || !filepath.IsAbs(socket) {
		return fmt.Errorf("serve volume %s: socket %q must be an absolute path of at most %d characters", v.name, socket, unixsocket.Longest)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return fmt.Errorf("serve volume %s: %w", v.name, ErrClosed)
	}
	if v.export != nil && v.meta.Socket == socket {
		return nil
	}
	ln, err := listen(socket)
	if err != nil {
		return fmt.Errorf("serve volume %s: %w", v.name, err)
	}
	if err := v.updateLocked(func(m *metadata) { m.Socket = socket }); err != nil {
		return errors.Join(fmt.Errorf("serve volume %s: %w", v.name, err), ln.Close())
	}
	old := v.export
	v.export = nbd.Serve(ln, v.name, countedClient{client{v}, &v.counts}, v.log)
	if old != nil {
		_ = old.Close()
	}
	return nil
}

func listen(socket string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		return nil, err
	}
	return unixsocket.Listen(socket)
}
