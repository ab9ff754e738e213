package main

import (
	"fmt"
	"strings"

	"github.com/godwit-project/godwit/api"
	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

// migrationReport is what a completed migration cost.
func (a *app) migrationReport(m *godwitv1.Migration) string {
	figures := m.GetFigures()
	var out strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&out, "  %-13s %s\n", name, fmt.Sprintf(format, args...))
	}
	fmt.Fprintf(&out, "%s: %s runs at %s\n", a.paint(a.out, green, "completed"), m.GetService(), place(m.GetDestination(), m.GetDestinationHost()))
	blackout := milliseconds(figures.GetBlackoutMs())
	if figures.GetBlackoutUncertaintyMs() > 0 {
		blackout += " (give or take " + milliseconds(figures.GetBlackoutUncertaintyMs()) + ")"
	}
	line("blackout", "%s", blackout)
	line("total", "%s", milliseconds(figures.GetTotalMs()))
	line("sync window", "%s", milliseconds(figures.GetSyncWindowMs()))
	line("sent", "%s for %s of memory and %s of disk", api.FormatSize(figures.GetWanBytes()), api.FormatSize(figures.GetMemoryBytes()), api.FormatSize(figures.GetDiskBytes()))
	line("packets", "%d held, %d dropped, %d through the tunnel", figures.GetHeldPackets(), figures.GetDroppedPackets(), figures.GetTunnelPackets())
	for _, phase := range api.ViewPhases(m) {
		if phase.Phase == m.GetPhase() {
			continue // the end takes no time
		}
		line(phase.Phase, "%s", phaseBar(phase.LengthMs, figures.GetTotalMs()))
	}
	return out.String()
}

// phaseBar is a length as figure and as bar.
func phaseBar(ms, total float64) string {
	const columns = 30
	length := 0
	if total > 0 {
		length = int(ms/total*columns + 0.5)
	}
	return strings.TrimRight(fmt.Sprintf("%9s  %s", milliseconds(ms), strings.Repeat("█", min(length, columns))), " ")
}
