//go:build lab

package acceptance

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// benchFor is how long rounds are begun; benchRounds how many there are if that suffices.
const (
	benchFor    = 4 * time.Minute
	benchRounds = 5
)

// TestPgbenchInEveryMode reports what a database in a guest does while its disk is replicated in each mode: the figures are for whoever reads the
// log. Each transaction is an update, a select and an insert (pgbench's simple-update: at this scale the others would wait for each other's locks).
// The modes are gone through again and again, since a machine that does other things, too, is not the same for long.
func TestPgbenchInEveryMode(t *testing.T) {
	if !soak() {
		t.Skip("GODWIT_SOAK=1 measures; speeds are no part of the default run")
	}
	s := onPostgres
	s.image, s.memory = postgresImage(t), "512MiB"
	w := up(t, "acc-pgbench")
	w.must(t, "apply", "-f", manifest(t, s.manifest(w)))
	w.databaseAnswers(t)
	replicated := []string{"async", "flush", "sync"}
	rates, delays := map[string][]float64{}, map[string][]float64{}
	cell := func(mode string, clients int) string { return fmt.Sprintf("%s | %d clients", mode, clients) }
	measure := func(mode string) {
		for _, n := range []struct{ clients, each int }{{1, 40}, {64, 3}} {
			rate, delay := w.pgbench(t, n.clients, n.each)
			at := cell(mode, n.clients)
			rates[at], delays[at] = append(rates[at], rate), append(delays[at], delay)
			t.Logf("%s: %.1f /s, %.0f ms", at, rate, delay)
		}
	}
	const alone = "no replica"
	measure(alone) // and again at the end, as making a replica costs a copy
	began := time.Now()
	for round := 0; round < benchRounds && time.Since(began) < benchFor; round++ {
		for _, mode := range replicated {
			w.must(t, "apply", "-f", manifest(t, s.protectedBy(w, mode)))
			w.inStep(t, s.site, mode)
			measure(mode)
		}
	}
	w.must(t, "apply", "-f", manifest(t, s.manifest(w)))
	measure(alone)
	measure(alone)
	for _, clients := range []int{1, 64} {
		for _, mode := range append([]string{alone}, replicated...) {
			at := cell(mode, clients)
			t.Logf("PGBENCH | %s | %.1f /s | %.0f ms in the average | medians of %d rounds: %.1f", at, median(rates[at]), median(delays[at]), len(rates[at]), rates[at])
		}
	}
}

func median(all []float64) float64 { return slices.Sorted(slices.Values(all))[len(all)/2] }

// pgbench makes so many transactions with each client, and not for so long: under emulation 64 clients may need longer to connect, which does not
// count. It returns transactions per second, and how long one took, in ms.
func (w *world) pgbench(t *testing.T, clients, each int) (rate, delay float64) {
	t.Helper()
	r := w.exec(t, "client", "timeout", "150", "pgbench", "-h", address, "-U", "postgres", "-n", "-N", "-c", fmt.Sprint(clients), "-t", fmt.Sprint(each), "postgres")
	got := regexp.MustCompile(`latency average = ([\d.]+) ms[\s\S]*tps = ([\d.]+)`).FindStringSubmatch(r.out)
	if got == nil || !strings.Contains(r.out, fmt.Sprintf("actually processed: %d/%d", clients*each, clients*each)) {
		t.Fatalf("pgbench with %d clients: %v", clients, r)
	}
	var err error
	if delay, err = strconv.ParseFloat(got[1], 64); err == nil {
		rate, err = strconv.ParseFloat(got[2], 64)
	}
	if err != nil {
		t.Fatal(err)
	}
	return rate, delay
}
