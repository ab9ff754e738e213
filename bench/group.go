package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	groupSize   = 256 << 20
	groupRTT    = 20 * time.Millisecond
	groupRounds = 5
	// pairRounds are the rounds of no replica and async, which are so near to each other that a pair says little.
	pairRounds = 14
	// longTime is for what is shipped later than it is written: as long as from one epoch to the next. The load runs for paceTime before.
	longTime = 20 * time.Second
	paceTime = 5 * time.Second
	lookTime = 200 * time.Millisecond

	manyVolumes = 10
	manySize    = 1 << 30
)

// The columns of what is measured over the line: Godwit's modes, and QEMU's mirror.
const (
	groupNone = iota
	groupAsync
	groupFlush
	groupSync
	groupMirror
	groupColumns
)

// groupModes are the orders that bring the near end there.
var groupModes = [groupMirror]string{"none", "async", "flush", "sync"}

var groupHeads = [groupColumns]string{"no replica", "async", "flush", "sync", "QEMU's `blockdev-mirror`"}

var groupLoads = []diskLoad{
	{"write 4 KiB at random, depth 1", []string{"--rw=randwrite", "--bs=4k", "--iodepth=1"}, "/s"},
	{"write 4 KiB at random, depth 32", []string{"--rw=randwrite", "--bs=4k", "--iodepth=32"}, "/s"},
	{"write 4 KiB at random, fsync after every 32nd", []string{"--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=32"}, "/s"},
}

// deepLoad is the row that says what replication costs.
const deepLoad = 1

// groupResults are what a replica costs.
type groupResults struct {
	rates   [][groupColumns]figures
	medians [][groupColumns]figures // of a write, in milliseconds
	missing string
	// Of the row at depth 32: processor time of a write, in microseconds, and what the far end lacked at most.
	client, near, far    [groupColumns]figures
	lackedMB, lackedTime [groupColumns]figures

	first, again [copyColumns][]copied
	noCopy       [copyColumns]string // why there are none
	memory       figures             // bytes
}

// measureGroups measures replication beside the same volume without, and QEMU's mirror.
func measureGroups(ctx context.Context, rows rowChoice, say func(string, ...any)) (r groupResults, err error) {
	r.rates, r.medians = make([][groupColumns]figures, len(groupLoads)), make([][groupColumns]figures, len(groupLoads))
	for _, program := range []string{"fio", "qemu-nbd", "qemu-storage-daemon"} {
		if _, err := exec.LookPath(program); err != nil {
			return groupResults{missing: program + " is not installed"}, nil
		}
	}
	for _, part := range []func(context.Context, rowChoice, func(string, ...any), *groupResults) error{measureModes, measureCopies, measureMany} {
		if err := part(ctx, rows, say, &r); err != nil {
			return r, fmt.Errorf("measure replication: %w", err)
		}
	}
	return r, nil
}

// process is this program as one end of a group.
type process struct {
	end  groupEnd
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
	said strings.Builder
}

func startEnd(end groupEnd) (*process, error) {
	argument, err := json.Marshal(end)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	command := []string{self, groupEndCommand, string(argument)}
	if !end.Near { // its processors are another machine's: here it has what the near end and its client leave
		command = append([]string{"chrt", "--idle", "0"}, command...)
	}
	p := &process{end: end, cmd: exec.Command(command[0], command[1:]...)}
	p.cmd.Stderr = &p.said
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewScanner(out)
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := p.answer(); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	return p, nil
}

func (p *process) answer() (string, error) {
	if !p.out.Scan() {
		return "", fmt.Errorf("one end of the group has ended: %s", strings.TrimSpace(p.said.String()))
	}
	return p.out.Text(), nil
}

// obey has an order carried out.
func (p *process) obey(order string) (string, error) {
	if _, err := fmt.Fprintln(p.in, order); err != nil {
		return "", err
	}
	return p.answer()
}

// number is obey for an order that is answered with one.
func (p *process) number(order string) (float64, error) {
	said, err := p.obey(order)
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(said, 64)
}

func (p *process) stop() error { return errors.Join(p.in.Close(), p.cmd.Wait()) }

// groupBed is a group of volumes and the line between its ends.
type groupBed struct {
	dir, farDir string
	far, near   *process
}

// startGroup starts both ends, with nothing replicated yet. The far end is in memory if it may be: its disk is another machine's.
func startGroup(volumes int, size, rate int64, inMemory bool) (b *groupBed, err error) {
	b = &groupBed{}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.stop())
		}
	}()
	if b.dir, err = os.MkdirTemp("", "godwit-bench-*"); err != nil {
		return b, err
	}
	root := ""
	if inMemory {
		root = memoryFolder()
	}
	if b.farDir, err = os.MkdirTemp(root, "godwit-bench-*"); err != nil {
		return b, err
	}
	end := groupEnd{Dir: b.farDir, Link: filepath.Join(b.dir, "link.sock"), RTT: groupRTT, Rate: rate, Volumes: volumes, Size: size}
	if b.far, err = startEnd(end); err != nil {
		return b, err
	}
	end.Dir, end.Near = b.dir, true
	b.near, err = startEnd(end)
	return b, err
}

// memoryFolder is where files are in memory, empty if nowhere.
func memoryFolder() string {
	const shm = "/dev/shm"
	if st, err := os.Stat(shm); err != nil || !st.IsDir() {
		return ""
	}
	return shm
}

func (b *groupBed) stop() error {
	var errs []error
	for _, p := range []*process{b.near, b.far} {
		if p != nil {
			errs = append(errs, p.stop())
		}
	}
	for _, dir := range []string{b.dir, b.farDir} {
		if dir != "" {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	return errors.Join(errs...)
}

func (b *groupBed) socket(i int) string { return b.near.end.socket(i) }

// settle waits until what the near end has written is on the disk.
func (b *groupBed) settle() error { return settle(filepath.Join(b.dir, "disk-0", "base.raw")) }

// measureMany looks at the memory of a process whose volumes were all written to and replicated.
func measureMany(ctx context.Context, rows rowChoice, say func(string, ...any), r *groupResults) (err error) {
	if !rows.wants("replication: memory") {
		return nil
	}
	say("replication: memory of a process with %d volumes", manyVolumes)
	bed, err := startGroup(manyVolumes, manySize, 0, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bed.stop()) }()
	if _, err := bed.near.obey("async"); err != nil {
		return err
	}
	for i := range manyVolumes {
		if _, err := loadDisk(ctx, groupLoads[deepLoad], bed.socket(i), manySize, diskTime); err != nil {
			return err
		}
		bytes, err := bed.near.number("memory")
		if err != nil {
			return err
		}
		r.memory = append(r.memory, bytes)
	}
	return nil
}

// markdown is the tables.
func (r *groupResults) markdown() string {
	const title = "### A volume with a replica %v away\n\n"
	head := fmt.Sprintf(title, groupRTT)
	if r.missing != "" || r.rates == nil {
		return head + "Not measured: " + cmp.Or(r.missing, "something else was") + ".\n"
	}
	table := [][]string{append([]string{"over NBD on a unix socket"}, groupHeads[:]...)}
	for i, row := range groupLoads {
		rates, medians := []string{row.name}, []string{"… median of a write"}
		for at := range groupColumns {
			rates = append(rates, r.rates[i][at].text("%.0f "+row.unit))
			medians = append(medians, r.medians[i][at].text("%.2f ms"))
		}
		table = append(table, rates, medians)
	}
	const shallow, deep, syncing = 0, deepLoad, 2
	ratio := func(over, under figures) string { return ratios(over, under).text("%.2f") }
	claims := [][]string{
		{"ratio", "measured", "aim"},
		{"async to no replica, depth 1", ratio(r.rates[shallow][groupAsync], r.rates[shallow][groupNone]), "0.95"},
		{"async to no replica, depth 32", ratio(r.rates[deep][groupAsync], r.rates[deep][groupNone]), "0.95"},
		{"… by the processor time of client and near end", r.alone().text("%.2f"), "0.95"},
		{"sync, depth 32 to depth 1", ratio(r.rates[deep][groupSync], r.rates[shallow][groupSync]), "20"},
		{"flush to sync, fsync after every 32nd", ratio(r.rates[syncing][groupFlush], r.rates[syncing][groupSync]), "3"},
		{"sync to `blockdev-mirror`, depth 1", ratio(r.rates[shallow][groupSync], r.rates[shallow][groupMirror]), ""},
		{"sync to `blockdev-mirror`, depth 32", ratio(r.rates[deep][groupSync], r.rates[deep][groupMirror]), ""},
	}
	return head + tableText(table) + "\n" + r.costText() + tableText(claims) + "\n" + r.copiesText() + r.memoryText()
}

func (r *groupResults) memoryText() string {
	memory := "–"
	if n := len(r.memory); n > 0 {
		memory = fmt.Sprintf("%.0f MB", r.memory[n-1]/1e6)
	}
	return fmt.Sprintf("\nMemory of its own of a process that replicates %d volumes, all of them just written to: %s.\n", manyVolumes, memory)
}
