package controller

import (
	"testing"
)

// TestAVolumeIsMeasuredOnEveryHostOfASiteThatHasIt: one may still have what it was told to remove, while another has it already.
func TestAVolumeIsMeasuredOnEveryHostOfASiteThatHasIt(t *testing.T) {
	w := newWorld(t)
	hosts := []*fakeAgent{w.agent("host", "b", "host-b1"), w.agent("host", "b", "host-b2")}
	for _, h := range hosts {
		h.keeps("shop", true)
		w.beaten(h)
	}
	m := newMetrics(&front{services: w.services, migrations: w.migrations})
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "godwit_volume_lag_bytes" && len(f.GetMetric()) == len(hosts) {
			return
		}
	}
	t.Errorf("the lag is measured otherwise: %v", families)
}
