package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// results are everything that was measured, one entry for each time.
type results struct {
	conditions conditions
	machine    machine
	lines      [len(askedLines)][]delivered
	ours, bare []move
	disks      diskResults
}

// markdown is the part of the document that a run replaces.
func (r *results) markdown() string {
	parts := []string{r.conditionsText(), r.linesText(), r.oursText(), r.comparisonText(), r.disks.markdown()}
	return strings.Join(parts, "\n")
}

func (r *results) conditionsText() string {
	var out strings.Builder
	c := r.conditions
	if c.busy() {
		fmt.Fprintf(&out, "**Preliminary**: the machine was busy with other things (%.1f of %d processors when the run began). "+
			"Ratios hold better than times.\n\n", c.load, c.cpus)
	}
	accelerator := strings.ToUpper(r.machine.accelerator)
	if accelerator == "TCG" {
		accelerator = "TCG (emulated, no hardware virtualization)"
	}
	table := [][]string{
		{"condition", ""},
		{"date", c.when.Format(time.DateOnly + " 15:04 UTC")},
		{"machine", fmt.Sprintf("%d processors, %s", c.cpus, c.processor)},
		{"busy with other things when the run began", fmt.Sprintf("%.2f processors", c.load)},
		{"kernel", c.kernel},
		{"QEMU", c.qemu},
		{"accelerator", accelerator},
		{"machine type, CPU model", r.machine.machineType + ", " + r.machine.cpuModel},
		{"guest", fmt.Sprintf("%d MiB of memory, a disk of %d MiB, `%s`", guestMemory>>20, guestDisk>>20, guestLoad)},
		{"line of the migrations", askedLines[0].String() + " round trip between the sites"},
		{"TCP congestion control", c.congestion + " (of the migrations; the line is measured with cubic or reno)"},
		{"repetitions", fmt.Sprintf("%d × every measurement below, taking turns; migrations there and back each time", len(r.lines[0]))},
	}
	out.WriteString(tableText(table))
	return out.String()
}

func (r *results) linesText() string {
	table := [][]string{{
		"asked (each direction)", "idle round trip", "… 99 %", fmt.Sprintf("round trip at %.0f %% load", halfLoad*100), "… 99 %",
		fmt.Sprintf("at %.0f %% load", highLoad*100), "rate west → east", "rate east → west", "within the aim",
	}}
	for i, asked := range askedLines {
		got := r.lines[i]
		each := func(pick func(delivered) float64) figures { return of(got, pick) }
		idle := each(func(d delivered) float64 { return d.idle.median })
		half := each(func(d delivered) float64 { return d.half.median })
		there := each(func(d delivered) float64 { return d.there / 1e6 })
		back := each(func(d delivered) float64 { return d.back / 1e6 })
		table = append(table, []string{
			asked.String(),
			idle.text("%.2f ms"), each(func(d delivered) float64 { return d.idle.worst }).text("%.2f ms"),
			half.text("%.2f ms"), each(func(d delivered) float64 { return d.half.worst }).text("%.2f ms"),
			each(func(d delivered) float64 { return d.high.median }).text("%.2f ms"),
			there.text("%.1f Mbit/s"), back.text("%.1f Mbit/s"), asked.verdict(idle.median(), half.median(), there.median(), back.median()),
		})
	}
	return "### What the lab's line delivers\n\n" + tableText(table)
}

// verdict compares with the aim: delay within 1 ms, rate within 5 %. Trips are milliseconds, rates Mbit/s.
func (l line) verdict(idle, half, there, back float64) string {
	const nearTrip, nearRate = 1, 0.05
	var missed []string
	trip, rate := milliseconds(l.rtt), float64(l.rate)/1e6
	for _, m := range []struct {
		what        string
		got, wanted float64
		near        float64
	}{
		{"idle delay", idle, trip, nearTrip},
		{"delay under load", half, trip, nearTrip},
		{"rate west → east", there, rate, nearRate * rate},
		{"rate east → west", back, rate, nearRate * rate},
	} {
		if math.Abs(m.got-m.wanted) > m.near {
			missed = append(missed, m.what)
		}
	}
	if len(missed) == 0 {
		return "yes"
	}
	return "no: " + strings.Join(missed, ", ")
}

// row is a line of a table about moves.
type row struct {
	name, format string
	value        func(move) float64
}

var (
	totalRow    = row{"total time", "%.2f s", func(m move) float64 { return m.total / 1000 }}
	arrivedRow  = row{"bytes that came over the WAN", "%.1f MB", func(m move) float64 { return m.arrived / 1e6 }}
	countedRow  = row{"… by the program's own count", "%.1f MB", func(m move) float64 { return m.counted / 1e6 }}
	memoryRow   = row{"… of it memory", "%.1f MB", func(m move) float64 { return m.memory / 1e6 }}
	diskRow     = row{"… of it disk", "%.1f MB", func(m move) float64 { return m.disk / 1e6 }}
	blackoutRow = row{"blackout", "%.0f ms", func(m move) float64 { return m.blackout }}
	gapRow      = row{"the client's longest gap", "%.0f ms", func(m move) float64 { return m.gap }}
	gapLateRow  = row{"… of it the client's own lateness", "%.0f ms", func(m move) float64 { return m.gapLate }}
)

func (r *results) oursText() string {
	there, back := movesTo(r.ours, east), movesTo(r.ours, west)
	table := [][]string{{"Godwit", "there", "back", "both"}}
	rows := append([]row{totalRow, arrivedRow, countedRow, memoryRow, diskRow, blackoutRow, gapRow, gapLateRow}, phaseRows(r.ours)...)
	for _, row := range rows {
		table = append(table, []string{
			row.name, of(there, row.value).text(row.format), of(back, row.value).text(row.format), of(r.ours, row.value).text(row.format),
		})
	}
	return "### A planned migration\n\n" + tableText(table)
}

func (r *results) comparisonText() string {
	table := [][]string{{"there and back", "Godwit", "bare QEMU", "ratio"}}
	for _, row := range []row{totalRow, arrivedRow, countedRow, memoryRow, diskRow, blackoutRow, gapRow, gapLateRow} {
		ours, bare := of(r.ours, row.value), of(r.bare, row.value)
		ratio := "–"
		if row.name != gapLateRow.name && bare.median() > 0 && ours.median() > 0 {
			ratio = fmt.Sprintf("%.2f", ours.median()/bare.median())
		}
		table = append(table, []string{row.name, ours.text(row.format), bare.text(row.format), ratio})
	}
	for _, row := range phaseRows(r.bare) {
		table = append(table, []string{row.name, "", of(r.bare, row.value).text(row.format), ""})
	}
	return "### Beside bare QEMU\n\n" + tableText(table)
}

func movesTo(all []move, site string) []move {
	return slices.DeleteFunc(slices.Clone(all), func(m move) bool { return m.to != site })
}

// phaseRows has a row for every phase that any move had, in their order.
func phaseRows(all []move) []row {
	var rows []row
	var names []string
	for _, m := range all {
		for _, p := range m.phases {
			if slices.Contains(names, p.name) {
				continue
			}
			names = append(names, p.name)
			rows = append(rows, row{"phase: " + p.name, "%.0f ms", func(m move) float64 { return m.inPhase(p.name) }})
		}
	}
	return rows
}

// inPhase is how long a move was in a phase, ms.
func (m move) inPhase(name string) (length float64) {
	for _, p := range m.phases {
		if p.name == name {
			length += p.length
		}
	}
	return length
}

// text is the median, and the range where there were several.
func (f figures) text(format string) string {
	if len(f) == 0 {
		return "–"
	}
	median := fmt.Sprintf(format, f.median())
	if len(f) == 1 {
		return median
	}
	bare, _, _ := strings.Cut(format, " ")
	return fmt.Sprintf("%s ("+bare+"–"+bare+")", median, slices.Min(f), slices.Max(f))
}

// tableText writes a table of Markdown; the first row is its head.
func tableText(rows [][]string) string {
	var out strings.Builder
	for i, cells := range rows {
		fmt.Fprintf(&out, "| %s |\n", strings.Join(cells, " | "))
		if i == 0 {
			out.WriteString("|" + strings.Repeat("---|", len(cells)) + "\n")
		}
	}
	return out.String()
}
