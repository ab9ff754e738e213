//go:build lab

package link

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/godwit-project/godwit/lab/namespace"
)

func TestMeasuringLeavesNothingAndTheDelayIsKept(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("measuring needs root")
	}
	m, err := Measure(t.Context(), Settings{Rate: 100_000_000, Delay: 5 * time.Millisecond}, 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if m.RTTMinMs < 10 || m.Rate <= 0 || m.Rate > 101_000_000 {
		t.Errorf("%+v", m)
	}
	if left, err := namespace.List("godwit-measure-"); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// BenchmarkLink reports what lines deliver; it asserts nothing.
func BenchmarkLink(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("measuring needs root")
	}
	for _, s := range []Settings{
		{Rate: 10_000_000, Delay: 10 * time.Millisecond},
		{Rate: 100_000_000, Delay: 10 * time.Millisecond},
		{Rate: 400_000_000, Delay: 10 * time.Millisecond},
		{Rate: 1_000_000_000, Delay: 10 * time.Millisecond},
		{Rate: 100_000_000, Delay: 10 * time.Millisecond, Loss: 0.001},
	} {
		b.Run(fmt.Sprintf("%dMbit/rtt=%s/loss=%v", s.Rate/1_000_000, 2*s.Delay, s.Loss), func(b *testing.B) {
			for b.Loop() {
				m, err := Measure(b.Context(), s, 4*time.Second)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(m.RTTMedianMs, "rtt50-ms")
				b.ReportMetric(m.RTT99Ms, "rtt99-ms")
				b.ReportMetric(m.RTTMaxMs, "rttmax-ms")
				b.ReportMetric(m.Rate/1e6, "line-Mbit/s")
				b.ReportMetric(m.Goodput/1e6, "goodput-Mbit/s")
				b.ReportMetric(100*m.CPU, "cpu-%")
				b.ReportMetric(float64(m.Dropped), "dropped")
			}
		})
	}
}
