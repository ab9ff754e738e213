package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/godwit-project/godwit/storage/nbd"
)

// maxSocket is the longest path that the kernel takes for a unix socket.
const maxSocket = 107

// Serve exports the volume over NBD on the unix socket at that path, and again whenever the store is opened. The same path
// again is a success; another one moves the export there, cutting its connections. A stale socket of a dead process is
// replaced, a live one is an error. The folder is made if need be.
//
// A replica's export advertises itself writable and answers writes with EPERM until it is promoted, without losing its
// connections; a fenced volume's parks every request but FLUSH.
func (v *Volume) Serve(socket string) error {
	if len(socket) > maxSocket || !filepath.IsAbs(socket) {
		return fmt.Errorf("serve volume %s: socket %q must be an absolute path of at most %d characters", v.name, socket, maxSocket)
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

func listen(socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		return nil, err
	}
	st, err := os.Lstat(socket)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case st.Mode()&fs.ModeSocket == 0:
		return nil, fmt.Errorf("%s is there and is no socket", socket)
	default:
		c, err := net.Dial("unix", socket)
		if err == nil {
			_ = c.Close()
			return nil, fmt.Errorf("%s is served by another process", socket)
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, err
		}
		if err := os.Remove(socket); err != nil {
			return nil, err
		}
	}
	return net.Listen("unix", socket)
}
