package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// order is what a child is told, a line of JSON; it answers with one.
type order struct {
	Op      string
	Socket  string        `json:",omitempty"` // of a node, or what to listen at
	Network string        `json:",omitempty"`
	Name    string        `json:",omitempty"`
	Peer    string        `json:",omitempty"`
	Addr    string        `json:",omitempty"`
	Size    int           `json:",omitempty"`
	Count   int           `json:",omitempty"`
	Verb    string        `json:",omitempty"` // participant/role/verb
	Epoch   uint64        `json:",omitempty"`
	Flag    bool          `json:",omitempty"` // as a standby; in pieces; neither batched nor compressed
	Pieces  bool          `json:",omitempty"`
	During  time.Duration `json:",omitempty"`
}

type answer struct {
	Err   string          `json:",omitempty"`
	Text  string          `json:",omitempty"`
	Bytes uint64          `json:",omitempty"`
	Flag  bool            `json:",omitempty"`
	Took  []time.Duration `json:",omitempty"` // each call
}

// child is another process of the measurement.
type child struct {
	cmd *exec.Cmd
	pid int
	in  io.WriteCloser
	out *bufio.Reader
}

func start() (*child, error) {
	c := &child{cmd: exec.Command("/proc/self/exe", childCommand)}
	c.cmd.Stderr = os.Stderr
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a process of the measurement: %w", err)
	}
	c.pid = c.cmd.Process.Pid
	return c, nil
}

// spent returns the processor time that the process has taken.
func (c *child) spent() time.Duration {
	var t unix.Timespec
	clock := int32(^c.pid<<3 | 2) // as clock_getcpuclockid does
	if unix.ClockGettime(clock, &t) != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// stop ends the process: it ends when its input does.
func (c *child) stop() {
	_ = c.in.Close()
	_ = c.cmd.Wait()
}

func (c *child) tell(o order) (answer, error) {
	line, err := json.Marshal(o)
	if err != nil {
		return answer{}, err
	}
	if _, err := c.in.Write(append(line, '\n')); err != nil {
		return answer{}, fmt.Errorf("%s: %w", o.Op, err)
	}
	back, err := c.out.ReadBytes('\n')
	if err != nil {
		return answer{}, fmt.Errorf("%s: %w", o.Op, err)
	}
	var a answer
	if err = json.Unmarshal(back, &a); err == nil && a.Err != "" {
		err = errors.New(a.Err)
	}
	if err != nil {
		return a, fmt.Errorf("%s: %w", o.Op, err)
	}
	return a, nil
}

// memory is what the process has in memory, in bytes.
func (c *child) memory() (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		var kib uint64
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kib); err == nil {
			return kib << 10, nil
		}
	}
	return 0, errors.New("the kernel says nothing of the process's memory")
}

// obey is a child's life.
func obey(in io.Reader, out io.Writer) {
	h := &host{}
	lines := bufio.NewScanner(in)
	answers := json.NewEncoder(out)
	for lines.Scan() {
		var o order
		var a answer
		err := json.Unmarshal(lines.Bytes(), &o)
		if err == nil {
			a, err = h.do(o)
		}
		if err != nil {
			a.Err = err.Error()
		}
		if answers.Encode(a) != nil {
			return
		}
	}
}
