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
	var load float64
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		_, _ = fmt.Sscan(string(text), &load)
	}
	if load > 0.5 {
		fmt.Fprintf(b.out, "**Preliminary**: the machine was busy with other things (load %.1f on %d processors when the run began). Ratios hold better than times.\n\n", load, runtime.NumCPU())
	}
	fmt.Fprintf(b.out, "%s, %d processors, %s; %d rounds of %v each, medians.\n\n", time.Now().UTC().Format("2006-01-02 15:04 UTC"), runtime.NumCPU(), runtime.Version(), b.rounds, b.during)
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
