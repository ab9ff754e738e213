package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// diskSize fits into the page cache of any machine: what is compared is the way there, not the machine's disk.
	diskSize   = 512 << 20
	diskRounds = 5
	diskTime   = time.Second
	upTimeout  = 10 * time.Second
)

// diskServer serves one raw file over NBD on a unix socket.
type diskServer struct {
	name string
	// command serves file on socket until it is killed.
	command func(godwit, file, socket string) []string
}

// The servers: ours twice, and its peers. qemu-nbd is told to use the page cache, as ours and nbdkit do.
const (
	diskOurs = iota
	diskSums
	diskQEMU
	diskKit
	diskServers
)

var diskServerList = [diskServers]diskServer{
	diskOurs: {"Godwit", func(godwit, file, socket string) []string {
		return []string{godwit, "volume", "serve", file, "--socket", socket, "--log-level", "error"}
	}},
	diskSums: {"… with checksums", func(godwit, file, socket string) []string {
		return []string{godwit, "volume", "serve", file, "--socket", socket, "--log-level", "error", "--checksums"}
	}},
	diskQEMU: {"qemu-nbd", func(_, file, socket string) []string {
		return []string{"qemu-nbd", "-k", socket, "-f", "raw", "--cache=writeback", "--aio=threads", "-t", "-e", "8", file}
	}},
	diskKit: {"nbdkit file", func(_, file, socket string) []string {
		return []string{"nbdkit", "-f", "-U", socket, "file", file}
	}},
}

// diskLoad is one kind of load.
type diskLoad struct {
	name string
	fio  []string
	unit string // of requests per second
}

var diskLoads = []diskLoad{
	{"read 4 KiB at random, depth 1", []string{"--rw=randread", "--bs=4k", "--iodepth=1"}, "/s"},
	{"read 4 KiB at random, depth 32", []string{"--rw=randread", "--bs=4k", "--iodepth=32"}, "/s"},
	{"write 4 KiB at random, depth 1", []string{"--rw=randwrite", "--bs=4k", "--iodepth=1"}, "/s"},
	{"write 4 KiB at random, depth 32", []string{"--rw=randwrite", "--bs=4k", "--iodepth=32"}, "/s"},
	{"read 1 MiB in order, depth 4", []string{"--rw=read", "--bs=1M", "--iodepth=4"}, "MiB/s"},
	{"write 1 MiB in order, depth 4", []string{"--rw=write", "--bs=1M", "--iodepth=4"}, "MiB/s"},
	{"write 4 KiB at random, fsync after every 8th", []string{"--rw=randwrite", "--bs=4k", "--iodepth=1", "--fsync=8"}, "/s"},
}

// diskResults are rates: of each row, each server's, one for each round.
type diskResults struct {
	rates   [][diskServers]figures
	missing string // why there are none
	groups  groupResults
	guest   guestResults
}

// measureDisks lets the servers serve equal files, and takes turns between them.
func measureDisks(ctx context.Context, o options, say func(string, ...any)) (r diskResults, err error) {
	if err = r.measurePeers(ctx, o, say); err == nil {
		r.groups, err = measureGroups(ctx, o.rows, say)
	}
	if err == nil {
		r.guest, err = measureInGuest(ctx, o, say)
	}
	return r, err
}

// rowChoice says which rows are to be measured.
type rowChoice struct{ match *regexp.Regexp }

func (c rowChoice) wants(name string) bool { return c.match == nil || c.match.MatchString(name) }

// choose returns which of the loads are wanted, by their numbers.
func (c rowChoice) choose(kind string, loads []diskLoad) (wanted []int) {
	for i, row := range loads {
		if c.wants(kind + ": " + row.name) {
			wanted = append(wanted, i)
		}
	}
	return wanted
}

func (r *diskResults) measurePeers(ctx context.Context, o options, say func(string, ...any)) (err error) {
	r.rates = make([][diskServers]figures, len(diskLoads))
	rows := o.rows.choose("disks", diskLoads)
	if len(rows) == 0 {
		return nil
	}
	for _, program := range []string{"fio", "qemu-nbd", "nbdkit"} {
		if _, err := exec.LookPath(program); err != nil {
			*r = diskResults{missing: program + " is not installed"}
			return nil
		}
	}
	dir, err := os.MkdirTemp("", "godwit-bench-*")
	if err != nil {
		return fmt.Errorf("measure the disks: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var files, sockets [diskServers]string
	for i, server := range diskServerList {
		files[i] = filepath.Join(dir, fmt.Sprintf("%d.raw", i))
		sockets[i] = filepath.Join(dir, fmt.Sprintf("%d.sock", i))
		if err := fillFile(files[i], diskSize); err != nil {
			return fmt.Errorf("make a disk to measure: %w", err)
		}
		stop, err := startDiskServer(ctx, server.command(o.binary, files[i], sockets[i]), sockets[i])
		if err != nil {
			return fmt.Errorf("start %s: %w", server.name, err)
		}
		defer stop()
	}
	for _, i := range rows {
		row := diskLoads[i]
		say("disks: %s", row.name)
		for round := range diskRounds {
			for turn := range diskServers { // another one first each time
				at := (turn + round) % diskServers
				got, err := loadDisk(ctx, row, sockets[at], diskSize, diskTime)
				if err == nil {
					err = settle(files[at]) // what it has written shall not slow the next
				}
				if err != nil {
					return fmt.Errorf("%s of %s: %w", row.name, diskServerList[at].name, err)
				}
				r.rates[i][at] = append(r.rates[i][at], got.rate)
			}
		}
	}
	return nil
}

// fillFile makes a file full of noise, all of it on the disk.
func fillFile(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{}), size)
	return errors.Join(err, f.Sync(), f.Close())
}

// settle waits until what was written to the file is on the disk.
func settle(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// startDiskServer returns when the server answers; stop ends it.
func startDiskServer(ctx context.Context, command []string, socket string) (stop func(), err error) {
	cmd := exec.Command(command[0], command[1:]...)
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		_ = cmd.Process.Signal(unix.SIGTERM)
		_ = cmd.Wait()
	}
	ctx, cancel := context.WithTimeout(ctx, upTimeout)
	defer cancel()
	err = eventually(ctx, 10*time.Millisecond, func() (bool, error) {
		c, err := net.Dial("unix", socket)
		if err != nil {
			return false, nil // not yet
		}
		return true, c.Close()
	})
	if err != nil {
		stop()
		return nil, fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
	}
	return stop, nil
}

// load is what fio says of one.
type load struct {
	rate   float64       // requests that were answered per second
	median time.Duration // of a write
	client time.Duration // processor time of fio, for a request
}

// loadDisk puts the row's load on a server for so long.
func loadDisk(ctx context.Context, row diskLoad, socket string, size int64, length time.Duration) (load, error) {
	return runFio(ctx, socket, size, append([]string{
		"--time_based", fmt.Sprintf("--runtime=%d", int(length.Seconds())), "--ramp_time=0.2",
	}, row.fio...)...)
}

// runFio has fio do something to a server's disk.
func runFio(ctx context.Context, socket string, size int64, args ...string) (load, error) {
	args = append([]string{
		"--name=bench", "--ioengine=nbd", "--uri=nbd+unix:///?socket=" + socket, fmt.Sprintf("--size=%d", size), "--output-format=json",
	}, args...)
	cmd := exec.CommandContext(ctx, "fio", args...)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return load{}, fmt.Errorf("fio: %w: %s%s", err, out, said.String())
	}
	return loadIn(out)
}

// loadIn takes what is of use out of what fio says.
func loadIn(out []byte) (load, error) {
	_, text, _ := strings.Cut("\n"+string(out), "\n{") // notes may stand before
	var said struct {
		Jobs []struct {
			Error       int
			User        float64 `json:"usr_cpu"` // in percent of a processor
			System      float64 `json:"sys_cpu"`
			Read, Write struct {
				IOPS float64
				Clat struct{ Percentile map[string]time.Duration } `json:"clat_ns"`
			}
		}
	}
	if err := json.Unmarshal([]byte("{"+text), &said); err != nil {
		return load{}, fmt.Errorf("read what fio says: %w", err)
	}
	if len(said.Jobs) != 1 || said.Jobs[0].Error != 0 {
		return load{}, fmt.Errorf("fio met an error: %s", out)
	}
	job := &said.Jobs[0]
	l := load{rate: job.Read.IOPS + job.Write.IOPS, median: job.Write.Clat.Percentile["50.000000"]}
	if l.rate > 0 {
		l.client = time.Duration((job.User + job.System) / 100 / l.rate * float64(time.Second))
	}
	return l, nil
}

// markdown is the table. Ratios are of neighbours in time, and their medians; above 1 is in Godwit's favour.
func (r *diskResults) markdown() string {
	const title = "### One volume beside its peers\n\n"
	if r.rates == nil {
		return title + "Not measured: " + cmp.Or(r.missing, "something else was") + ".\n\n" + r.groups.markdown() + "\n" + r.guest.markdown()
	}
	head := []string{"over NBD on a unix socket"}
	for _, server := range diskServerList {
		head = append(head, server.name)
	}
	table := [][]string{append(head, "to qemu-nbd", "to nbdkit", "checksums to plain")}
	for i, row := range diskLoads {
		rates := &r.rates[i]
		cells := []string{row.name}
		for _, rate := range rates {
			cells = append(cells, rate.text("%.0f "+row.unit))
		}
		for _, pair := range [][2]int{{diskOurs, diskQEMU}, {diskOurs, diskKit}, {diskSums, diskOurs}} {
			cells = append(cells, ratios(rates[pair[0]], rates[pair[1]]).text("%.2f"))
		}
		table = append(table, cells)
	}
	return title + tableText(table) + "\n" + r.groups.markdown() + "\n" + r.guest.markdown()
}

// ratios divides what was measured in the same round.
func ratios(over, under figures) figures {
	var out figures
	for i := range min(len(over), len(under)) {
		out = append(out, over[i]/under[i])
	}
	return out
}
