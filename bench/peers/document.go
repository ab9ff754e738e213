package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// The tables stand between these lines of the document.
const (
	beginMark = "<!-- written by scripts/bench.sh -dvs: begin -->"
	endMark   = "<!-- written by scripts/bench.sh -dvs: end -->"
)

// conditions says on what it was measured.
func (b *bench) conditions() {
	if load := others(); load > 0.2 {
		fmt.Fprintf(b.out, "**Preliminary**: the machine was busy with other things (%.1f of %d processors when the run began). Ratios hold better than times.\n\n", load, runtime.NumCPU())
	}
	fmt.Fprintf(b.out, "%s, %d processors, %s; %d rounds of %v each, medians.\n\n", time.Now().UTC().Format("2006-01-02 15:04 UTC"), runtime.NumCPU(), runtime.Version(), b.rounds, b.during)
}

// others is how many processors are busy while this program waits.
func others() float64 {
	idle := func() (ticks float64) {
		if text, err := os.ReadFile("/proc/stat"); err == nil { // proc_stat(5): cpu user nice system idle iowait …
			var user, nice, system, wait float64
			_, _ = fmt.Sscanf(string(text), "cpu %g %g %g %g %g", &user, &nice, &system, &ticks, &wait)
			ticks += wait
		}
		return ticks
	}
	const look, hertz = 3 * time.Second, 100 // USER_HZ is 100 on all that Go runs on
	before := idle()
	time.Sleep(look)
	return max(0, float64(runtime.NumCPU())-(idle()-before)/hertz/look.Seconds())
}

// replaceTables puts the tables into the document.
func replaceTables(path, tables string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("put the tables into %s: %w", path, err)
	}
	before, rest, begun := strings.Cut(string(old), beginMark)
	_, after, ended := strings.Cut(rest, endMark)
	if !begun || !ended {
		return fmt.Errorf("put the tables into %s: it has no lines %q and %q in this order", path, beginMark, endMark)
	}
	text := before + beginMark + "\n\n" + strings.TrimSpace(tables) + "\n\n" + endMark + after
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("put the tables into %s: %w", path, err)
	}
	return nil
}
