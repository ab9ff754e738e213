//go:build lab

package acceptance

import (
	"fmt"
	"regexp"
	"testing"
)

// TestPgbenchInEveryMode reports what a database in a guest does while its disk is replicated in each mode: the figures are for whoever reads the
// log. Each transaction is an update, a select and an insert (pgbench's simple-update: at this scale the others would wait for each other's locks).
func TestPgbenchInEveryMode(t *testing.T) {
	if !soak() {
		t.Skip("GODWIT_SOAK=1 measures; speeds are no part of the default run")
	}
	s := onPostgres
	s.image, s.memory = postgresImage(t), "512MiB"
	w := up(t, "acc-pgbench")
	w.must(t, "apply", "-f", manifest(t, s.manifest(w)))
	w.databaseAnswers(t)
	figures := regexp.MustCompile(`number of transactions actually processed: (\d+)/\d+[\s\S]*latency average = ([\d.]+) ms[\s\S]*tps = ([\d.]+)`)
	for _, mode := range []string{"no replica", "async", "flush", "sync"} {
		if mode != "no replica" {
			w.must(t, "apply", "-f", manifest(t, s.protectedBy(w, mode)))
			w.inStep(t, s.site, mode)
		}
		// So many transactions, and not for so long: under emulation 64 clients may need longer to connect, which does not count.
		for _, n := range []struct{ clients, each int }{{1, 60}, {64, 5}} {
			clients, each := n.clients, n.each
			r := w.exec(t, "client", "timeout", "150", "pgbench", "-h", address, "-U", "postgres", "-n", "-N", "-c", fmt.Sprint(clients), "-t", fmt.Sprint(each), "postgres")
			got := figures.FindStringSubmatch(r.out)
			if got == nil {
				t.Fatalf("pgbench with %d clients, %s: %v", clients, mode, r)
			}
			t.Logf("PGBENCH | %s | %d clients | %s transactions | %s ms in the average | %s /s", mode, clients, got[1], got[2], got[3])
		}
	}
}
