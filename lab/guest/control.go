//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"time"
)

// stats is the answer to stats.
type stats struct {
	Uptime             float64 `json:"uptime"` // seconds since PID 1 started, by the guest's clock
	Count              uint64  `json:"count"`  // requests answered on port 7000
	DirtiedBytes       int64   `json:"dirtied_bytes"`
	WritesIssued       uint64  `json:"writes_issued"`
	WritesAcknowledged uint64  `json:"writes_acknowledged"`
	Fsyncs             uint64  `json:"fsyncs"`
	WriteErrors        uint64  `json:"write_errors"`
	LongestWriteMS     float64 `json:"longest_write_ms"` // including its fdatasync, where it had one
}

// refusal is the answer to a command that was not carried out.
type refusal struct {
	Error string `json:"error"`
}

// serveControl reads one command a line and answers each with one line of JSON.
func (m *machine) serveControl(conn net.Conn) {
	lines := bufio.NewScanner(conn)
	lines.Buffer(nil, longestLine)
	out := json.NewEncoder(conn)
	for lines.Scan() {
		answer, err := m.obey(strings.Fields(lines.Text()))
		if err != nil {
			answer = refusal{err.Error()}
		}
		if err := out.Encode(answer); err != nil {
			return
		}
		if answer == (poweredOff{true}) {
			m.powerOff()
			return
		}
	}
}

// poweredOff is the answer to poweroff, sent before it happens.
type poweredOff struct {
	PowerOff bool `json:"poweroff"`
}

func (m *machine) obey(words []string) (any, error) {
	if len(words) == 0 {
		return nil, errUsage
	}
	switch words[0] {
	case "stats":
		return m.stats(), nil
	case "verify":
		if m.disk == nil {
			return nil, errNoDisk
		}
		return m.disk.verify()
	case "set":
		if err := m.setLoad(words[1:]); err != nil {
			return nil, err
		}
		return m.stats(), nil
	case "mount", "write", "keep", "check":
		return m.obeyFiles(words)
	case "measure":
		return m.measure(words[1:])
	case "poweroff":
		return poweredOff{true}, nil
	}
	return nil, fmt.Errorf("unknown command %q: %w", words[0], errUsage)
}

func (m *machine) stats() stats {
	s := stats{
		Uptime:       time.Since(m.started).Seconds(),
		Count:        m.count.Load(),
		DirtiedBytes: m.memory.dirtied.Load(),
	}
	if d := m.disk; d != nil {
		s.WritesIssued = d.issued.Load()
		s.WritesAcknowledged = d.acknowledged.Load()
		s.Fsyncs = d.fsyncs.Load()
		s.WriteErrors = d.errors.Load()
		s.LongestWriteMS = float64(d.longest.Load()) / float64(time.Millisecond)
	}
	return s
}

// setLoad changes the load's rates; either all assignments are valid or none takes effect.
func (m *machine) setLoad(assignments []string) error {
	if len(assignments) == 0 {
		return errUsage
	}
	o := options{dirty: -1, writes: -1}
	for _, a := range assignments {
		name, value, _ := strings.Cut(a, "=")
		if name != "dirty" && name != "writes" {
			return fmt.Errorf("cannot set %q while running: %w", name, errUsage)
		}
		if err := o.set(name, value); err != nil {
			return fmt.Errorf("set %s: %w", a, err)
		}
	}
	if o.writes >= 0 && m.disk == nil {
		return errNoDisk
	}
	if o.writes > 0 && m.files.mounted() != nil {
		return fmt.Errorf("set writes=%d: the disk is mounted, and its blocks are the file system's", o.writes)
	}
	if o.dirty >= 0 {
		m.memory.rate.Store(o.dirty)
	}
	if o.writes >= 0 {
		m.disk.rate.Store(int64(o.writes))
	}
	return nil
}
