package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// measureModes puts the same loads on one volume in every mode, and on a file that QEMU mirrors, taking turns.
func measureModes(ctx context.Context, rows rowChoice, say func(string, ...any), r *groupResults) (err error) {
	wanted := rows.choose("replication", groupLoads)
	if len(wanted) == 0 {
		return nil
	}
	bed, err := startGroup(1, groupSize, 0, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bed.stop()) }()
	if _, err := runFio(ctx, bed.socket(0), groupSize, "--rw=write", "--bs=1M", "--iodepth=4"); err != nil {
		return err
	}
	mirror, err := startMirror(ctx, bed)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mirror.stop()) }()
	for _, i := range wanted {
		row := groupLoads[i]
		say("replication: %s", row.name)
		for round := range pairRounds {
			for _, at := range groupTurns(round) {
				if err := r.measureMode(ctx, bed, mirror, i, at); err != nil {
					return fmt.Errorf("%s, %s: %w", row.name, groupHeads[at], err)
				}
			}
		}
	}
	return nil
}

// groupTurns are the columns of a round. No replica and async are always next to each other, and each as often before the other.
func groupTurns(round int) []int {
	turns := []int{groupNone, groupAsync}
	if round%2 == 1 {
		slices.Reverse(turns)
	}
	if round < groupRounds {
		turns = append(turns, groupFlush, groupSync, groupMirror)
	}
	return turns
}

// measureMode puts one load on one column.
func (r *groupResults) measureMode(ctx context.Context, bed *groupBed, mirror *mirror, i, at int) error {
	row := groupLoads[i]
	if at == groupMirror {
		if err := settle(mirror.file); err != nil {
			return err
		}
		got, err := loadDisk(ctx, row, mirror.socket, groupSize, diskTime)
		r.note(i, at, got)
		return err
	}
	if _, err := bed.near.obey(groupModes[at]); err != nil {
		return err
	}
	long := i == deepLoad && at <= groupAsync
	if long { // what was written before the replica was there is shipped once, and is no part of what a standing one costs
		if _, err := loadDisk(ctx, row, bed.socket(0), groupSize, paceTime); err != nil {
			return err
		}
	}
	if err := bed.settle(); err != nil {
		return err
	}
	if !long {
		got, err := loadDisk(ctx, row, bed.socket(0), groupSize, diskTime)
		r.note(i, at, got)
		return err
	}
	var before, after [2]time.Duration
	look := func(into *[2]time.Duration) (err error) {
		if into[0], err = bed.near.processor(); err == nil {
			into[1], err = bed.far.processor()
		}
		return err
	}
	if err := look(&before); err != nil {
		return err
	}
	watched, stop := context.WithCancel(ctx)
	var most lacked
	var watching sync.WaitGroup
	var failed error
	watching.Go(func() { most, failed = bed.watch(watched) })
	began := time.Now()
	got, err := loadDisk(ctx, row, bed.socket(0), groupSize, longTime)
	took := time.Since(began)
	stop()
	watching.Wait()
	if err := errors.Join(err, failed, look(&after)); err != nil {
		return err
	}
	r.note(i, at, got)
	writes := got.rate * took.Seconds()
	microseconds := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	r.client[at] = append(r.client[at], microseconds(got.client))
	r.near[at] = append(r.near[at], microseconds(after[0]-before[0])/writes)
	r.far[at] = append(r.far[at], microseconds(after[1]-before[1])/writes)
	r.lackedMB[at], r.lackedTime[at] = append(r.lackedMB[at], most.bytes/1e6), append(r.lackedTime[at], most.seconds)
	return nil
}

func (r *groupResults) note(i, at int, got load) {
	r.rates[i][at] = append(r.rates[i][at], got.rate)
	r.medians[i][at] = append(r.medians[i][at], milliseconds(got.median))
}

// lacked is what the far end lacks.
type lacked struct{ bytes, seconds float64 }

// watch returns the most that the far end lacked until the context ends.
func (b *groupBed) watch(ctx context.Context) (most lacked, err error) {
	for sleep(ctx, lookTime) == nil {
		said, err := b.near.obey("lag")
		if err != nil {
			return most, err
		}
		var now lacked
		if _, err := fmt.Sscan(said, &now.bytes, &now.seconds); err != nil {
			return most, fmt.Errorf("the near end says that the far end lacks %q: %w", said, err)
		}
		most = lacked{max(most.bytes, now.bytes), max(most.seconds, now.seconds)}
	}
	return most, nil
}

// processor is the processor time that it has used, in user and kernel.
func (p *process) processor() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	const tick = time.Second / 100 // what the kernel counts in, for programs, on every machine that Go runs on
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	const user, system = 11, 12
	if len(fields) <= system {
		return 0, fmt.Errorf("the kernel says %q of a process", text)
	}
	var sum time.Duration
	for _, field := range []string{fields[user], fields[system]} {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

// alone is what async would leave of the rate if the far end had processors of its own, and processors are what there is not enough of.
func (r *groupResults) alone() figures {
	var with, without figures
	for i := range min(len(r.client[groupAsync]), len(r.client[groupNone])) {
		with = append(with, r.client[groupAsync][i]+r.near[groupAsync][i])
		without = append(without, r.client[groupNone][i]+r.near[groupNone][i])
	}
	return ratios(without, with)
}

func (r *groupResults) costText() string {
	if len(r.near[groupAsync]) == 0 {
		return ""
	}
	table := [][]string{{groupLoads[deepLoad].name + fmt.Sprintf(", %v", longTime), groupHeads[groupNone], groupHeads[groupAsync]}}
	for _, line := range []struct {
		name, format string
		all          [groupColumns]figures
	}{
		{"processor time of a write: client", "%.1f µs", r.client},
		{"… near end", "%.1f µs", r.near},
		{"… far end and line", "%.1f µs", r.far},
		{"what the far end lacked at most", "%.0f MB", r.lackedMB},
		{"… age of the oldest write", "%.1f s", r.lackedTime},
	} {
		table = append(table, []string{line.name, line.all[groupNone].text(line.format), line.all[groupAsync].text(line.format)})
	}
	return tableText(table) + "\n"
}
