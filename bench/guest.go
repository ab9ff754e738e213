package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	guestBoots  = 6  // one pair of guests is up to a twentieth apart from the next, by chance
	guestRounds = 11 // of turns; short ones: what else the machine does changes faster than a long one lasts
	guestTurn   = 200 * time.Millisecond
	guestSettle = 2 * time.Second
	guestVolume = 64 << 20
	// guestQuiet makes the lab's guest do nothing by itself.
	guestQuiet = "console=ttyS0 quiet godwit.dirty=0 godwit.dirtyspace=4MiB godwit.writes=0"
	// guestPort is where the guest takes orders.
	guestPort = "7001"
)

// The columns of what is measured inside a guest.
const (
	guestRaw = iota
	guestNone
	guestAsync
	guestColumns
)

var guestHeads = [guestColumns]string{"QEMU on the raw file", "a volume of Godwit", "… with an async replica"}

// guestModes are the orders that bring the near end there; there is none for the raw file.
var guestModes = [guestColumns]string{guestNone: groupModes[groupNone], guestAsync: groupModes[groupAsync]}

// guestLoads are what the guest's program does at random places, one at a time, and its name for that.
var guestLoads = []diskLoad{
	{"read 4 KiB", []string{"read"}, "/s"},
	{"write 4 KiB", []string{"write"}, "/s"},
	{"write 4 KiB and flush", []string{"sync"}, "/s"},
}

// guestResults are what a program in a guest sees.
type guestResults struct {
	rates, medians [][guestColumns]figures // medians in milliseconds
	toRaw          [][guestColumns]figures // rates, of turns next to each other
	missing        string
}

// measureInGuest boots the lab's guest twice, on a raw file and on a volume, and has both measure their disk, taking turns.
func measureInGuest(ctx context.Context, o options, say func(string, ...any)) (r guestResults, err error) {
	rows := o.rows.choose("guest", guestLoads)
	if len(rows) == 0 {
		return r, nil
	}
	program, err := qemuName()
	if err == nil && runtime.GOARCH != "amd64" {
		return guestResults{missing: "the guest's machine is one of amd64"}, nil
	}
	if err == nil {
		_, err = exec.LookPath(program)
	}
	folder := filepath.Join(filepath.Dir(o.binary), "guest")
	if err == nil {
		_, err = os.Stat(filepath.Join(folder, "initrd.gz"))
	}
	if err != nil {
		return guestResults{missing: err.Error()}, nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("measure inside a guest: %w", err)
		}
	}()
	bed, err := startGroup(1, guestVolume, 0, true)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, bed.stop()) }()
	file := filepath.Join(bed.dir, "raw.raw")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, guestVolume)); err != nil {
		return r, err
	}
	volume, err := json.Marshal(map[string]any{ // as Godwit's agent has it
		"driver": "nbd", "node-name": diskNode, "reconnect-delay": 600, "discard": "unmap",
		"server": map[string]string{"type": "unix", "path": bed.socket(0)},
	})
	if err != nil {
		return r, err
	}
	pair := guestPair{bed: bed, file: file, console: filepath.Join(bed.dir, "guest-%d")}
	disks := [guestColumns]string{
		guestRaw:  "driver=raw,node-name=" + diskNode + ",discard=unmap,file.driver=file,file.filename=" + file,
		guestNone: string(volume),
	}
	for _, all := range []*[][guestColumns]figures{&r.rates, &r.medians, &r.toRaw} {
		*all = make([][guestColumns]figures, len(guestLoads))
	}
	for boot := range guestBoots {
		say("guest: pair %d of %d", boot+1, guestBoots)
		if err := pair.boot(ctx, program, folder, disks, boot%2 == 0); err != nil {
			return r, err
		}
		err := pair.measure(ctx, rows, boot/2%2 == 0, &r) // not in step with who is first
		pair.stop()
		if err != nil {
			return r, err
		}
	}
	return r, nil
}

// guestPair is two guests, one on the raw file and one on the volume.
type guestPair struct {
	bed     *groupBed
	file    string // the raw one
	console string // a format that takes the column
	guests  [guestColumns]*localGuest
}

// boot starts both; who is first changes, in case that matters.
func (p *guestPair) boot(ctx context.Context, program, folder string, disks [guestColumns]string, rawFirst bool) (err error) {
	order := []int{guestRaw, guestNone}
	if !rawFirst {
		slices.Reverse(order)
	}
	for _, at := range order {
		if p.guests[at], err = bootGuest(ctx, program, folder, fmt.Sprintf(p.console, at), disks[at]); err != nil {
			p.stop()
			return err
		}
	}
	p.guests[guestAsync] = p.guests[guestNone]
	return nil
}

func (p *guestPair) stop() {
	for _, at := range []int{guestRaw, guestNone} {
		if g := p.guests[at]; g != nil {
			g.stop()
		}
	}
	p.guests = [guestColumns]*localGuest{}
}

// measure has the guest on the raw file take turns with the one on the volume, without a replica and with one.
func (p *guestPair) measure(ctx context.Context, rows []int, withoutFirst bool, r *guestResults) error {
	columns := []int{guestNone, guestAsync}
	if !withoutFirst {
		slices.Reverse(columns)
	}
	for _, column := range columns {
		if _, err := p.bed.near.obey(guestModes[column]); err != nil {
			return err
		}
		if _, err := p.turn(ctx, column, "write", guestSettle); err != nil { // the first copy is over then
			return err
		}
		for _, i := range rows {
			for round := range guestRounds {
				if err := p.takeTurns(ctx, i, column, round%2 == 0, r); err != nil {
					return fmt.Errorf("%s, %w", guestLoads[i].name, err)
				}
			}
		}
	}
	return nil
}

// takeTurns measures one row in the guest on the raw file and in the one of the column.
func (p *guestPair) takeTurns(ctx context.Context, row, column int, rawFirst bool, r *guestResults) error {
	turns := []int{guestRaw, column}
	if !rawFirst {
		slices.Reverse(turns)
	}
	var rates [guestColumns]float64
	for _, at := range turns {
		got, err := p.turn(ctx, at, guestLoads[row].fio[0], guestTurn)
		if err != nil {
			return fmt.Errorf("%s: %w", guestHeads[at], err)
		}
		rates[at] = got.PerSecond
		r.rates[row][at] = append(r.rates[row][at], got.PerSecond)
		r.medians[row][at] = append(r.medians[row][at], got.MedianUs/1000)
	}
	r.toRaw[row][column] = append(r.toRaw[row][column], rates[column]/rates[guestRaw])
	return nil
}

// turn is one guest's, while the other one is stopped.
func (p *guestPair) turn(ctx context.Context, at int, load string, lasts time.Duration) (guestSpeed, error) {
	err := errors.Join(
		settle(p.file), p.bed.settle(),
		p.guests[guestRaw].hold(at != guestRaw), p.guests[guestNone].hold(at == guestRaw),
	)
	if err != nil {
		return guestSpeed{}, err
	}
	return p.guests[at].measure(ctx, load, lasts)
}

// localGuest is a guest outside of any lab, with QEMU's own network for its orders.
type localGuest struct {
	cmd     *exec.Cmd
	address string
}

// bootGuest returns when the guest takes orders. Its console is written to the path.
func bootGuest(ctx context.Context, program, folder, console, disk string) (*localGuest, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g := &localGuest{address: l.Addr().String()}
	if err := l.Close(); err != nil {
		return nil, err
	}
	if err := os.Remove(console); err != nil && !errors.Is(err, os.ErrNotExist) { // one before said there that it was ready
		return nil, err
	}
	g.cmd = exec.Command(program, "-accel", "tcg", "-machine", "q35", "-cpu", "Westmere-v1", "-m", "128", "-nodefaults", "-display", "none", "-no-reboot",
		"-serial", "file:"+console, "-kernel", filepath.Join(folder, "vmlinuz"), "-initrd", filepath.Join(folder, "initrd.gz"), "-append", guestQuiet,
		"-blockdev", disk, "-device", "virtio-blk-pci,drive="+diskNode,
		"-netdev", "user,id=net,hostfwd=tcp:"+g.address+"-:"+guestPort, "-device", "virtio-net-pci,netdev=net")
	var said strings.Builder
	g.cmd.Stderr = &said
	if err := g.cmd.Start(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, bootTimeout, errors.New("the guest was not ready in time"))
	defer cancel()
	err = eventually(ctx, 100*time.Millisecond, func() (bool, error) {
		text, _ := os.ReadFile(console)
		return strings.Contains(string(text), "godwit-guest ready"), nil
	})
	if err != nil {
		g.stop()
		return nil, fmt.Errorf("boot a guest: %w: %s", err, said.String())
	}
	return g, nil
}

func (g *localGuest) stop() {
	_ = g.cmd.Process.Kill()
	_ = g.cmd.Wait()
}

// hold stops the machine's processor time, or lets it have it again: also an idle guest takes a tenth of a processor under TCG.
func (g *localGuest) hold(stopped bool) error {
	if stopped {
		return g.cmd.Process.Signal(syscall.SIGSTOP)
	}
	return g.cmd.Process.Signal(syscall.SIGCONT)
}

// guestSpeed is what a guest says of its disk.
type guestSpeed struct {
	PerSecond float64 `json:"per_second"`
	MedianUs  float64 `json:"median_us"`
	Error     string  `json:"error"`
}

// measure has the guest measure for so long.
func (g *localGuest) measure(ctx context.Context, what string, lasts time.Duration) (s guestSpeed, err error) {
	const patience = 30 * time.Second
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", g.address)
	if err != nil {
		return s, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return s, err
	}
	unhook := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer unhook()
	if _, err := fmt.Fprintf(conn, "measure %s %.1f\n", what, lasts.Seconds()); err != nil {
		return s, err
	}
	line, err := bufio.NewReader(conn).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &s)
	}
	if err == nil && (s.Error != "" || s.PerSecond <= 0) {
		err = fmt.Errorf("the guest says %s", line)
	}
	return s, err
}

// markdown is the table.
func (r *guestResults) markdown() string {
	const head = "### A volume inside a guest\n\n"
	if r.rates == nil {
		return head + "Not measured: " + cmp.Or(r.missing, "something else was") + ".\n"
	}
	table := [][]string{append(append([]string{"at random, one at a time, under TCG"}, guestHeads[:]...), "volume to raw file", "async to raw file")}
	for i, row := range guestLoads {
		rates, medians := []string{row.name}, []string{"… median"}
		for at := range guestColumns {
			rates = append(rates, r.rates[i][at].text("%.0f "+row.unit))
			medians = append(medians, r.medians[i][at].text("%.2f ms"))
		}
		for _, at := range []int{guestNone, guestAsync} {
			rates = append(rates, r.toRaw[i][at].text("%.2f"))
			medians = append(medians, "")
		}
		table = append(table, rates, medians)
	}
	return head + tableText(table)
}
