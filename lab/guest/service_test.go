//go:build linux

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
)

// talk sends requests at once and returns the lines that come back.
func talk(t *testing.T, serve func(net.Conn), requests string, answers int) []string {
	t.Helper()
	client, server := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); defer server.Close(); serve(server) }()
	go io.WriteString(client, requests)
	in := bufio.NewScanner(client)
	var lines []string
	for len(lines) < answers && in.Scan() {
		lines = append(lines, in.Text())
	}
	client.Close()
	<-done
	return lines
}

func newMachine(t *testing.T) *machine {
	return &machine{memory: newMemoryLoad(options{}), disk: newDisk(t, 8), powerOff: func() { t.Error("powered off") }}
}

func TestCounterCountsOverAllClientsAndNamesTheLastAcknowledgedWrite(t *testing.T) {
	m := newMachine(t)
	first := talk(t, m.serveCounter, "1\n2\n3\n", 3)
	writeBlocks(t, m.disk, 1, 2)
	second := talk(t, m.serveCounter, "1\r\n", 1)
	got := fmt.Sprint(first, second)
	if want := "[1 1 0 2 2 0 3 3 0] [1 4 2]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestCounterEndsAConnectionThatSendsAnEndlessLine(t *testing.T) {
	m := newMachine(t)
	if lines := talk(t, m.serveCounter, strings.Repeat("9", 4*longestLine), 1); len(lines) != 0 {
		t.Errorf("got %q", lines)
	}
}

func TestControlPortAnswersEachLineWithJSON(t *testing.T) {
	m := newMachine(t)
	writeBlocks(t, m.disk, 1)
	lines := talk(t, m.serveControl, "verify\nset dirty=1MiB writes=7\nset dirty=2MiB writes=x\nset fsync=1\nset\nsing\n\n", 7)
	if len(lines) != 7 {
		t.Fatalf("got %q", lines)
	}
	for i, want := range []string{
		`{"acknowledged":1,"checked":1,"lost":0,"first_lost":"","io_errors":0}`, `"writes_acknowledged":1`,
		`"error":"set writes=x`, `"error":"cannot set`, `"error":"want`, `"error":"unknown`, `"error":"want`,
	} {
		if !strings.Contains(lines[i], want) {
			t.Errorf("answer %d is %s, want %s", i+1, lines[i], want)
		}
	}
	if m.memory.rate.Load() != 1<<20 || m.disk.rate.Load() != 7 {
		t.Errorf("rates are %d and %d: a refused assignment must change nothing", m.memory.rate.Load(), m.disk.rate.Load())
	}
}

func TestPowerOffIsAnsweredFirst(t *testing.T) {
	m := newMachine(t)
	off := false
	m.powerOff = func() { off = true }
	lines := talk(t, m.serveControl, "poweroff\n", 1)
	if len(lines) != 1 || lines[0] != `{"poweroff":true}` || !off {
		t.Errorf("answered %q, powered off: %v", lines, off)
	}
}
