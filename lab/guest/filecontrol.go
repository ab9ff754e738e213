//go:build linux

package main

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
)

// fileSystem is the disk's, while it is mounted. The zero value is ready to use.
type fileSystem struct {
	mu struct {
		sync.Mutex
		files *files // nil before it is mounted
	}
}

func (s *fileSystem) mounted() *files {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.files
}

// mount does nothing when it has been mounted.
func (s *fileSystem) mount(device string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.files != nil {
		return nil
	}
	f, err := mountFiles(device)
	if err != nil {
		return err
	}
	s.mu.files = f
	return nil
}

// done is the answer to write and keep: the number that is acknowledged by it.
type done struct {
	Done uint64 `json:"done"`
}

// obeyFiles carries out the commands that need the file system, and the one that mounts it.
func (m *machine) obeyFiles(words []string) (any, error) {
	if m.disk == nil {
		return nil, errNoDisk
	}
	if words[0] == "mount" {
		if m.disk.rate.Load() > 0 || m.disk.issued.Load() > 0 {
			return nil, errors.New("mount: this machine writes to its disk's blocks; boot it with godwit.writes=0")
		}
		if err := m.files.mount(diskPath); err != nil {
			return nil, err
		}
		return m.files.mounted().check()
	}
	f := m.files.mounted()
	if f == nil {
		return nil, fmt.Errorf("%s: the disk is not mounted", words[0])
	}
	if words[0] == "check" {
		return f.check()
	}
	if len(words) != 2 {
		return nil, errUsage
	}
	n, err := strconv.ParseUint(words[1], 10, 64)
	if err != nil || n == 0 {
		return nil, fmt.Errorf("%s %s: want a number from 1", words[0], words[1])
	}
	act := f.writeRecord
	if words[0] == "keep" {
		act = f.keep
	}
	if err := act(n); err != nil {
		return nil, fmt.Errorf("%s %d: %w", words[0], n, err)
	}
	return done{n}, nil
}
