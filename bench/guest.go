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
	"strings"
	"syscall"
	"time"
)

const (
	guestRounds = 21 // short ones: what else the machine does changes faster than a long one lasts
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

// guestLoads are what the guest's program does at random places, one at a time, and its name for that.
var guestLoads = []diskLoad{
	{"read 4 KiB", []string{"read"}, "/s"},
	{"write 4 KiB", []string{"write"}, "/s"},
	{"write 4 KiB and flush", []string{"sync"}, "/s"},
}

// guestResults are what a program in a guest sees.
type guestResults struct {
	rates, medians [][guestColumns]figures // medians in milliseconds
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
	say("guest: booting two of them")
	volume, err := json.Marshal(map[string]any{ // as Godwit's agent has it
		"driver": "nbd", "node-name": diskNode, "reconnect-delay": 600, "discard": "unmap",
		"server": map[string]string{"type": "unix", "path": bed.socket(0)},
	})
	if err != nil {
		return r, err
	}
	raw := "driver=raw,node-name=" + diskNode + ",discard=unmap,file.driver=file,file.filename=" + file
	var guests [guestColumns]*localGuest
	for at, disk := range map[int]string{guestRaw: raw, guestNone: string(volume)} {
		if guests[at], err = bootGuest(ctx, program, folder, filepath.Join(bed.dir, fmt.Sprintf("guest-%d", at)), disk); err != nil {
			return r, err
		}
		defer guests[at].stop()
	}
	guests[guestAsync] = guests[guestNone]
	r.rates, r.medians = make([][guestColumns]figures, len(guestLoads)), make([][guestColumns]figures, len(guestLoads))
	for _, i := range rows {
		say("guest: %s", guestLoads[i].name)
		for round := range guestRounds {
			for turn := range guestColumns {
				at := (turn + round) % guestColumns
				if at != guestRaw {
					if _, err := bed.near.obey(groupModes[map[int]int{guestNone: groupNone, guestAsync: groupAsync}[at]]); err != nil {
						return r, err
					}
				}
				if err := errors.Join(settle(file), bed.settle()); err != nil {
					return r, err
				}
				if err := errors.Join(guests[guestRaw].hold(at != guestRaw), guests[guestNone].hold(at == guestRaw)); err != nil {
					return r, err
				}
				got, err := guests[at].measure(ctx, guestLoads[i].fio[0])
				if err != nil {
					return r, fmt.Errorf("%s, %s: %w", guestLoads[i].name, guestHeads[at], err)
				}
				r.rates[i][at] = append(r.rates[i][at], got.PerSecond)
				r.medians[i][at] = append(r.medians[i][at], got.MedianUs/1000)
			}
		}
	}
	return r, nil
}

// localGuest is a guest outside of any lab, with QEMU's own network for its orders.
type localGuest struct {
	cmd     *exec.Cmd
	address string
}

// bootGuest returns when the guest takes orders. Its console is at the path.
func bootGuest(ctx context.Context, program, folder, console, disk string) (*localGuest, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g := &localGuest{address: l.Addr().String()}
	if err := l.Close(); err != nil {
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

// measure has the guest measure for half a second.
func (g *localGuest) measure(ctx context.Context, what string) (s guestSpeed, err error) {
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
	if _, err := fmt.Fprintf(conn, "measure %s 0.5\n", what); err != nil {
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
			rates = append(rates, ratios(r.rates[i][at], r.rates[i][guestRaw]).text("%.2f"))
			medians = append(medians, "")
		}
		table = append(table, rates, medians)
	}
	return head + tableText(table)
}
