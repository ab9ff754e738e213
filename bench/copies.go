package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	copySize   = 2 << 30
	copyRate   = 25e6 // bytes per second
	copyPart   = 100  // one in so many bytes of what the volume holds is changed, in blocks of 4 KiB
	copyRounds = 5
)

// The columns of what copies a volume.
const (
	copyOurs = iota
	copyMirror
	copyRsync
	copyColumns
)

// onlyWhole is why there is no second copy: it would be the first once more.
const onlyWhole = "copies all again"

// once is why the peers have one round: theirs take minutes, and what the line carries of them hardly differs.
const once = "one round"

var copyHeads = [copyColumns]string{"Godwit", "QEMU's `blockdev-mirror`", "`rsync -z`"}

// copied is what one copy took.
type copied struct {
	content, line float64 // bytes that had to be there in the end, and that went over the line
	took          time.Duration
}

// copyBed is a volume and the ways to copy it, each with a line and a far end of its own.
type copyBed struct {
	*groupBed
	lines [copyColumns]*process // nil for ours, which is made anew for each copy
}

// measureCopies has a volume that is half full of what compresses copied, and copied again after a part of it was written over.
func measureCopies(ctx context.Context, rows rowChoice, say func(string, ...any), r *groupResults) (err error) {
	if !rows.wants("replication: copy") {
		return nil
	}
	say("replication: copy a volume of %d MiB", copySize>>20)
	bed := &copyBed{}
	if bed.groupBed, err = startGroup(1, copySize, copyRate, false); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bed.stop()) }()
	if r.noCopy, err = bed.startLines(); err != nil {
		return err
	}
	const full = copySize / 2
	content := []string{"--refill_buffers", "--buffer_compress_percentage=66", "--buffer_compress_chunk=4k"}
	write := func(args ...string) error {
		if _, err := runFio(ctx, bed.socket(0), full, append(args, content...)...); err != nil {
			return err
		}
		return bed.settle()
	}
	if err := write("--rw=write", "--bs=1M", "--iodepth=4"); err != nil {
		return err
	}
	part := int64(full / copyPart)
	for round := range copyRounds {
		say("replication: copy, round %d of %d", round+1, copyRounds)
		if err := bed.renew(); err != nil {
			return err
		}
		leftOut := r.noCopy
		if round > 0 {
			leftOut[copyMirror], leftOut[copyRsync] = once, once
		}
		if err := bed.copyAll(ctx, full, &r.first, &leftOut); err != nil {
			return err
		}
		if _, err := bed.near.obey("local"); err != nil {
			return err
		}
		if err := write("--rw=randwrite", "--bs=4k", "--iodepth=4", fmt.Sprintf("--io_size=%d", part), fmt.Sprintf("--randseed=%d", round+1)); err != nil {
			return err
		}
		leftOut[copyMirror] = onlyWhole
		if err := bed.copyAll(ctx, float64(part), &r.again, &leftOut); err != nil {
			return err
		}
	}
	return nil
}

// startLines starts the peers' lines, and says which peers are not there.
func (b *copyBed) startLines() (missing [copyColumns]string, err error) {
	if _, err := exec.LookPath("rsync"); err != nil {
		missing[copyRsync] = "not installed"
	}
	for at, end := range [copyColumns]groupEnd{
		copyMirror: {Link: filepath.Join(b.dir, "copy-mirror.sock"), To: filepath.Join(b.dir, "copy-target.sock")},
		copyRsync:  {Link: filepath.Join(b.dir, "copy-shell.sock"), Shell: true},
	} {
		if end.Link == "" || missing[at] != "" {
			continue
		}
		end.RTT, end.Rate = groupRTT, copyRate
		if b.lines[at], err = startEnd(end); err != nil {
			return missing, err
		}
	}
	return missing, nil
}

func (b *copyBed) stop() error {
	var errs []error
	for _, line := range b.lines {
		if line != nil {
			errs = append(errs, line.stop())
		}
	}
	return errors.Join(append(errs, b.groupBed.stop())...)
}

// renew gives every way an empty far end.
func (b *copyBed) renew() error {
	if _, err := b.near.obey("none"); err != nil {
		return err
	}
	end := b.far.end
	err := b.far.stop()
	b.far = nil
	if err == nil {
		err = os.RemoveAll(b.farDir)
	}
	if err == nil {
		err = os.Mkdir(b.farDir, 0o700)
	}
	if err == nil {
		b.far, err = startEnd(end)
	}
	return err
}

// copyAll brings every far end up to date that is not left out.
func (b *copyBed) copyAll(ctx context.Context, content float64, into *[copyColumns][]copied, leftOut *[copyColumns]string) error {
	ways := [copyColumns]func(context.Context) error{
		copyOurs: func(context.Context) error {
			_, err := b.near.obey("async")
			return err
		},
		copyMirror: b.mirrorOnce,
		copyRsync:  b.rsync,
	}
	for at, way := range ways {
		if leftOut[at] != "" {
			continue
		}
		line := b.lines[at]
		if line == nil {
			line = b.far
		}
		before, err := line.number("carried")
		if err != nil {
			return err
		}
		began := time.Now()
		if err := way(ctx); err != nil {
			return fmt.Errorf("copy by %s: %w", copyHeads[at], err)
		}
		c := copied{took: time.Since(began), content: content}
		after, err := line.number("carried")
		if err != nil {
			return err
		}
		c.line = after - before
		into[at] = append(into[at], c)
		if err := settleAll(b.farDir); err != nil { // what it has written shall not slow the next
			return err
		}
	}
	return nil
}

// settleAll waits until what was written to the files of a folder is on the disk.
func settleAll(dir string) error {
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		return settle(path)
	})
}

// source is the file that the volume is in; nobody writes to it meanwhile.
func (b *copyBed) source() string { return filepath.Join(b.dir, "disk-0", "base.raw") }

// rsync copies the file into another of that name at the far end.
func (b *copyBed) rsync(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "rsync", "-z", "--inplace", "--sparse", "-e", strings.Join([]string{self, farShellCommand, b.lines[copyRsync].end.Link}, " "),
		b.source(), "far:"+filepath.Join(b.farDir, "rsync.raw"))
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(said)))
	}
	return nil
}

// mirrorOnce has QEMU's storage daemon copy the file to an empty one, which qemu-nbd serves.
func (b *copyBed) mirrorOnce(ctx context.Context) (err error) {
	target := filepath.Join(b.farDir, "mirror.raw")
	if err := errors.Join(os.WriteFile(target, nil, 0o600), os.Truncate(target, copySize)); err != nil {
		return err
	}
	line := b.lines[copyMirror].end
	stopFar, err := startDiskServer(ctx, []string{"qemu-nbd", "-k", line.To, "-f", "raw", "--cache=writeback", "-t", target}, line.To)
	if err != nil {
		return err
	}
	defer stopFar()
	control := filepath.Join(b.dir, "copy-qmp.sock")
	stop, err := startDiskServer(ctx, []string{
		"qemu-storage-daemon", "--blockdev", "driver=file,node-name=file,read-only=on,filename=" + b.source(),
		"--blockdev", "driver=raw,node-name=disk,read-only=on,file=file",
		"--blockdev", "driver=nbd,node-name=far,server.type=unix,server.path=" + line.Link,
		"--chardev", "socket,id=control,server=on,wait=off,path=" + control, "--monitor", "chardev=control",
	}, control)
	if err != nil {
		return err
	}
	defer stop()
	return mirrorUntilReady(ctx, control, "background")
}

// copiesText is the table. A share is of what the line could have carried meanwhile.
func (r *groupResults) copiesText() string {
	const mega = 1e6
	table := [][]string{append([]string{fmt.Sprintf("over a line of %.0f MB/s", copyRate/mega)}, copyHeads[:]...)}
	for _, kind := range []struct {
		name  string
		all   *[copyColumns][]copied
		whole string
	}{
		{fmt.Sprintf("first copy of %d MiB, half full of what compresses", copySize>>20), &r.first, ""},
		{fmt.Sprintf("after %d %% of that was written over, in blocks of 4 KiB", 100/copyPart), &r.again, onlyWhole},
	} {
		rows := [][]string{{kind.name}, {"… on the line"}, {"… share of the line's rate"}, {"… content per second"}, {"… time to Godwit's"}}
		for at, all := range kind.all {
			if len(all) == 0 {
				none := cmp.Or(r.noCopy[at], "–")
				if at == copyMirror {
					none = cmp.Or(kind.whole, none)
				}
				for i := range rows {
					rows[i] = append(rows[i], none)
				}
				continue
			}
			took := of(all, func(c copied) float64 { return c.took.Seconds() })
			rows[0] = append(rows[0], took.text("%.2f s"))
			rows[1] = append(rows[1], of(all, func(c copied) float64 { return c.line / mega }).text("%.1f MB"))
			rows[2] = append(rows[2], of(all, func(c copied) float64 { return c.line / c.took.Seconds() / copyRate }).text("%.2f"))
			rows[3] = append(rows[3], of(all, func(c copied) float64 { return c.content / mega / c.took.Seconds() }).text("%.0f MB/s"))
			rows[4] = append(rows[4], ratios(took, of(kind.all[copyOurs], func(c copied) float64 { return c.took.Seconds() })).text("%.2f"))
		}
		table = append(table, rows...)
	}
	return tableText(table)
}
