package qemu

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/godwit-project/godwit/server"
	"github.com/godwit-project/godwit/server/memcheck"
)

// memfdName is what the kernel calls the memory of a machine whose memory is a memfd.
const memfdName = "/memfd:memory-backend-memfd"

// memory is a machine's memory, shared with QEMU.
type memory struct {
	file *os.File
	data []byte
}

// Memory maps a machine's memory, or returns nil when the account that its accelerator keeps of changed memory can be
// trusted, so that there is nothing to check. Whoever uses it sees to it that the guest does not run. Close it when done.
func (p *Platform) Memory(name string) (server.Memory, error) {
	m, err := p.known(name)
	if err != nil {
		return nil, err
	}
	rec, _, _ := m.look()
	if !doubtful(rec.Machine) {
		return nil, nil
	}
	m.mu.Lock()
	proc := m.proc
	m.mu.Unlock()
	if proc == nil {
		return nil, fmt.Errorf("memory of machine %s: %w", name, errDead)
	}
	mem, err := mapMemory(proc.pid, rec.Machine.Memory)
	if err != nil {
		return nil, fmt.Errorf("memory of machine %s: %w", name, err)
	}
	return mem, nil
}

// doubtful says whether changed memory can be missed: TCG marks a page as changed and then lets further writes pass
// unmarked, and between the two the migration's look at the marks can slip in.
func doubtful(m server.Machine) bool { return m.Accelerator == "tcg" && m.Memory%memcheck.Region == 0 }

func mapMemory(pid int, size int64) (*memory, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if to, err := os.Readlink(path); err != nil || !strings.HasPrefix(to, memfdName) {
			continue
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		data, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("map: %w", err), f.Close())
		}
		return &memory{file: f, data: data}, nil
	}
	return nil, fmt.Errorf("QEMU %d has no memory of its own to map: it was started by an older godwit, start it anew", pid)
}

// Bytes implements memcheck.Memory.
func (m *memory) Bytes() []byte { return m.data }

// Touched implements memcheck.Memory: holes of the memfd were never written.
func (m *memory) Touched() ([]bool, error) {
	touched := make([]bool, len(m.data)/memcheck.Region)
	fd, size := int(m.file.Fd()), int64(len(m.data))
	for at := int64(0); at < size; {
		begin, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("find data: %w", err)
		}
		stop, err := unix.Seek(fd, begin, unix.SEEK_HOLE)
		if err != nil {
			return nil, fmt.Errorf("find hole: %w", err)
		}
		for i := begin / memcheck.Region; i <= (stop-1)/memcheck.Region; i++ {
			touched[i] = true
		}
		at = stop
	}
	return touched, nil
}

// Ready implements server.Memory: the kernel maps what is there now, so that reading it later needs no page faults.
func (m *memory) Ready() error {
	touched, err := m.Touched()
	if err != nil {
		return err
	}
	for i, is := range touched {
		if !is {
			continue
		}
		region := m.data[i*memcheck.Region : (i+1)*memcheck.Region]
		if err := unix.Madvise(region, unix.MADV_POPULATE_READ); err != nil {
			return fmt.Errorf("map memory: %w", err)
		}
	}
	return nil
}

// Close implements server.Memory.
func (m *memory) Close() error {
	return errors.Join(unix.Munmap(m.data), m.file.Close())
}
