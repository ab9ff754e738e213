package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/godwit-project/godwit/api"
	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

// liveView shows a migration while it goes on: on a terminal a few lines that are drawn again and again, elsewhere one line
// for each phase.
type liveView struct {
	app   *app
	w     io.Writer
	width int

	last   *godwitv1.Migration
	drawn  int // lines on the terminal that belong to the view
	phases int // phases told
	notes  int // notes told
	ready  bool
}

func (a *app) newLiveView(w io.Writer) *liveView {
	return &liveView{app: a, w: w, width: a.width(w)}
}

// show is told each state of the migration.
func (v *liveView) show(m *godwitv1.Migration) {
	v.last = m
	if v.width > 0 {
		v.redraw()
		return
	}
	v.tellPhases(m)
	for ; v.notes < len(m.GetNotes()); v.notes++ {
		fmt.Fprintf(v.w, "  note: %s\n", m.GetNotes()[v.notes])
	}
	if m.GetReady() && !v.ready {
		v.ready = true
		fmt.Fprintf(v.w, "  ready%s\n", holding(m))
	}
}

// sayf puts a sentence above the view.
func (v *liveView) sayf(format string, args ...any) {
	v.erase()
	fmt.Fprintf(v.w, format+"\n", args...)
	if v.width > 0 && v.last != nil {
		v.redraw()
	}
}

// end leaves the view as it stands.
func (v *liveView) end() { v.drawn = 0 }

func (v *liveView) tellPhases(m *godwitv1.Migration) {
	if v.phases == 0 && len(m.GetPhases()) > 0 {
		fmt.Fprintln(v.w, title(m))
	}
	views := api.ViewPhases(m)
	for ; v.phases < len(views); v.phases++ {
		phase := views[v.phases]
		fmt.Fprintf(v.w, "  %9s  %s\n", "+"+milliseconds(phase.StartMs), phase.Phase)
	}
}

func (v *liveView) erase() {
	if v.drawn > 0 {
		fmt.Fprintf(v.w, "\x1b[%dA\x1b[J", v.drawn)
	}
	v.drawn = 0
}

func (v *liveView) redraw() {
	lines := v.lines(v.last)
	var out strings.Builder
	if v.drawn > 0 {
		fmt.Fprintf(&out, "\x1b[%dA", v.drawn)
	}
	for _, line := range lines {
		out.WriteString("\x1b[K" + line + "\n")
	}
	out.WriteString("\x1b[J")
	v.drawn = len(lines)
	fmt.Fprint(v.w, out.String())
}

// lines is the view: title, phases, one lane for each subsystem, the last note.
func (v *liveView) lines(m *godwitv1.Migration) []string {
	paint := func(colour, text string) string { return v.app.paint(v.w, colour, text) }
	elapsed := ""
	if m.GetStarted() != nil && m.GetEnded() == nil {
		elapsed = "   " + milliseconds(float64(v.app.now().Sub(m.GetStarted().AsTime()))/float64(time.Millisecond))
	}
	lines := []string{
		paint(bold, cut(title(m)+elapsed, v.width)),
		paint(dim, cut("  "+phaseLine(m), v.width)),
	}
	for _, participant := range []string{"server", "network", "storage"} {
		lane := laneOf(m, participant)
		lines = append(lines, paintState(paint, cut(laneLine(participant, lane), v.width), lane.GetState()))
	}
	if m.GetReady() {
		lines = append(lines, paint(green, cut("  ready"+holding(m), v.width)))
	}
	if notes := m.GetNotes(); len(notes) > 0 {
		lines = append(lines, paint(yellow, cut("  note: "+notes[len(notes)-1], v.width)))
	}
	return lines
}

func title(m *godwitv1.Migration) string {
	return fmt.Sprintf("migration %s: %s from %s to %s", m.GetName(), m.GetService(),
		place(m.GetSource(), m.GetSourceHost()), place(m.GetDestination(), m.GetDestinationHost()))
}

// phaseLine is the phases that are over with their lengths, then the one under way.
func phaseLine(m *godwitv1.Migration) string {
	var parts []string
	phases := m.GetPhases()
	for i, phase := range phases {
		if i == len(phases)-1 {
			parts = append(parts, phase.GetPhase())
			continue
		}
		parts = append(parts, phase.GetPhase()+" "+milliseconds(phase.GetLengthMs()))
	}
	if len(parts) == 0 {
		return m.GetPhase()
	}
	return strings.Join(parts, " › ")
}

func holding(m *godwitv1.Migration) string {
	if until := m.GetHoldUntil(); until != nil {
		return ": holds until " + until.AsTime().Local().Format("15:04:05")
	}
	if m.GetHold() {
		return ": holds until it is continued"
	}
	return ""
}

// laneOf picks what a subsystem is doing: the step under way that has bytes to count, else any under way, else a failed one,
// else the last that is done.
func laneOf(m *godwitv1.Migration, participant string) *godwitv1.Lane {
	var best *godwitv1.Lane
	rank := func(lane *godwitv1.Lane) int {
		switch {
		case lane == nil:
			return -1
		case lane.GetState() == "running" && lane.GetTotal() > 0:
			return 4
		case lane.GetState() == "running":
			return 3
		case lane.GetState() == "failed":
			return 2
		case lane.GetState() == "done":
			return 1
		default:
			return 0
		}
	}
	for _, lane := range m.GetLanes() {
		if lane.GetParticipant() == participant && rank(lane) >= rank(best) {
			best = lane
		}
	}
	return best
}

func laneLine(participant string, lane *godwitv1.Lane) string {
	head := fmt.Sprintf("  %-8s", participant)
	doing := strings.TrimSpace(lane.GetVerb() + " " + lane.GetRole())
	switch {
	case lane == nil:
		return head + "waiting"
	case lane.GetState() == "running" && lane.GetTotal() > 0:
		line := fmt.Sprintf("%s%s %9s of %-9s", head, bar(lane.GetDone(), lane.GetTotal(), 20), api.FormatSize(lane.GetDone()), api.FormatSize(lane.GetTotal()))
		if lane.GetRate() > 0 {
			line += fmt.Sprintf(" %9s/s", api.FormatSize(int64(lane.GetRate())))
		}
		if lane.GetEtaMs() > 0 {
			line += "  ETA " + milliseconds(lane.GetEtaMs())
		}
		return line + "  " + cmp.Or(lane.GetMessage(), doing)
	case lane.GetMessage() != "":
		return fmt.Sprintf("%s%-8s %s: %s", head, lane.GetState(), doing, lane.GetMessage())
	default:
		return fmt.Sprintf("%s%-8s %s", head, lane.GetState(), doing)
	}
}

func paintState(paint func(colour, text string) string, line, state string) string {
	switch state {
	case "done", "running", "failed":
		return paint(phaseColour(state), line)
	default:
		return paint(dim, line)
	}
}

// narrate puts a sentence below what is there; the next state begins a view of its own.
func (v *liveView) narrate(sentence string) {
	v.drawn = 0
	fmt.Fprintln(v.w, sentence)
}
