//go:build lab

package acceptance

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// How much is measured: in each round every mode once, in every mode each row for so long.
const (
	benchRounds = 3
	settleFor   = 2 * time.Second // before each measurement of pgbench
	pgbenchFor  = 8 * time.Second
	commitsFor  = 4 * time.Second
	// benchTotal is what all takes on a quiet machine, from the lab's start to its end.
	benchTotal = 8 * time.Minute
)

const noReplica = "no replica"

var benchModes = []string{noReplica, "async", "flush", "sync"}

// benchRows are what is measured: of pgbench transactions per second and what one took in the average, of a lone COMMIT its median and the 90th percentile.
var benchRows = []struct {
	name, format string
	measure      func(*bench) (first, second float64)
}{
	{"1 client", "%.1f /s, %.0f ms", func(b *bench) (rate, delay float64) { return b.pgbench(1) }},
	{"64 clients", "%.1f /s, %.0f ms", func(b *bench) (rate, delay float64) { return b.pgbench(64) }},
	{"COMMIT", "%.1f ms, 90 %% %.1f ms", func(b *bench) (median, most float64) { return b.commits() }},
}

// bench is one database, of which the mode is changed while it runs.
type bench struct {
	*testing.T
	w    *world
	s    spec
	pids map[int]int // of pgbench with so many clients; it is stopped while it is not measured
	seen map[string][][2]float64
}

// simpleUpdate is pgbench's transaction of that name. It is sent as one, so that none stays open when pgbench is stopped.
const simpleUpdate = `\set aid random(1, 100000)
\set bid 1
\set tid random(1, 10)
\set delta random(-5000, 5000)
BEGIN \; UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid \; SELECT abalance FROM pgbench_accounts WHERE aid = :aid \; INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP) \; END;
`

// TestPgbenchInEveryMode reports what a database in a guest does while its disk is replicated in each mode: the figures are for whoever reads the
// log. Each transaction is an update, a select and an insert (pgbench's simple-update: at this scale the others would wait for each other's locks).
// Under emulation that is mostly the emulator's work; so a third row has what a COMMIT alone takes by the guest's clock, which is the wait for
// its disk. The modes are gone through again and again, each time from another one on, since a machine is not the same for long.
func TestPgbenchInEveryMode(t *testing.T) {
	if !soak() {
		t.Skip("GODWIT_SOAK=1 measures; speeds are no part of the default run")
	}
	s := onPostgres
	s.image, s.memory = postgresImage(t), "512MiB"
	t.Logf("PGBENCH | %d rounds of %d modes, about %v in all; load of this machine: %s", benchRounds, len(benchModes), benchTotal, load())
	began := time.Now()
	b := &bench{T: t, w: up(t, "acc-pgbench", "--bandwidth", "400mbit"), s: s, pids: make(map[int]int), seen: make(map[string][][2]float64)}
	b.w.must(t, "apply", "-f", manifest(t, s.manifest(b.w)))
	b.w.databaseAnswers(t)
	b.warmUp()
	t.Logf("PGBENCH | warm after %.0f s", time.Since(began).Seconds())
	for round := range benchRounds {
		before := time.Now()
		for n := range benchModes {
			b.cell(benchModes[(round+n)%len(benchModes)])
		}
		took := time.Since(before)
		b.report(fmt.Sprintf("round %d of %d (%.0f s, load %s)", round+1, benchRounds, took.Seconds(), load()), func(all [][2]float64) [2]float64 { return all[round] })
		if last, ok := t.Deadline(); ok && time.Until(last) < took+forCleanup {
			t.Log("PGBENCH | go test's -timeout is too short for another round")
			break
		}
	}
	b.report("medians", func(all [][2]float64) [2]float64 {
		return [2]float64{median(all, 0), median(all, 1)}
	})
	t.Logf("PGBENCH | %.0f s in all", time.Since(began).Seconds())
}

// report logs a line for each row.
func (b *bench) report(of string, pick func([][2]float64) [2]float64) {
	for _, row := range benchRows {
		var line strings.Builder
		for _, mode := range benchModes {
			figures := pick(b.seen[mode+row.name])
			fmt.Fprintf(&line, " | %s: "+row.format, mode, figures[0], figures[1])
		}
		b.Logf("PGBENCH | %s | %s%s", of, row.name, line.String())
	}
}

func median(all [][2]float64, column int) float64 {
	var sorted []float64
	for _, figures := range all {
		sorted = append(sorted, figures[column])
	}
	slices.Sort(sorted)
	return sorted[len(sorted)/2]
}

// load is the machine's, of the last minute: whether it was quiet.
func load() string {
	raw, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := bytes.Cut(raw, []byte(" "))
	return string(first)
}

// warmUp connects all clients, and has everything done once: under emulation 64 take eight seconds to connect, and their first transactions are
// several times as slow as all others.
func (b *bench) warmUp() {
	b.Helper()
	b.sql("CREATE TABLE committed (n int)")
	script := filepath.Join(b.TempDir(), "transaction")
	if err := os.WriteFile(script, []byte(simpleUpdate), 0o600); err != nil {
		b.Fatal(err)
	}
	connected := int64(0)
	for _, clients := range []int{1, 64} {
		said, _ := b.w.background(b.T, b.TempDir(), `echo $$; exec pgbench -h $0 -U postgres -n -c $1 -T 100000 -f $2 postgres >/dev/null`, fmt.Sprint(clients), script)
		connected += int64(clients)
		eventually(b.T, 2*time.Minute, func() string {
			if n := b.w.number(b.T, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'"); n < connected {
				return fmt.Sprintf("%d clients are connected", n)
			}
			return ""
		})
		b.pids[clients] = int(lastNumber(b.T, said))
		b.pgbench(clients)
	}
	b.pgbench(64)
	b.commits()
}

// cell measures one mode once, after what the change to it has left to be written.
func (b *bench) cell(mode string) {
	b.Helper()
	began := time.Now()
	if mode == noReplica {
		b.w.must(b.T, "apply", "-f", manifest(b.T, b.s.manifest(b.w)))
		eventually(b.T, time.Minute, func() string {
			if c := b.w.copies(b.T); len(c) != 1 || c[b.s.site].Wanted != "" {
				return fmt.Sprintf("there is a replica: %+v", c)
			}
			return ""
		})
	} else {
		b.w.must(b.T, "apply", "-f", manifest(b.T, b.s.protectedBy(b.w, mode)))
		b.w.inStep(b.T, b.s.site, mode)
	}
	b.sql("CHECKPOINT")
	took := time.Since(began)
	for _, row := range benchRows {
		first, second := row.measure(b)
		b.seen[mode+row.name] = append(b.seen[mode+row.name], [2]float64{first, second})
		b.Logf("%s | %s | "+row.format, mode, row.name, first, second)
	}
	b.Logf("%s: %.0f s for the change, %.0f s in all", mode, took.Seconds(), time.Since(began).Seconds())
}

func (b *bench) sql(statements ...string) string {
	b.Helper()
	r := b.w.exec(b.T, "client", psql("180", "60", statements...)...) // beside 64 clients, on a machine that others use, too
	if r.code != 0 {
		b.Fatalf("%q: %v", statements, r)
	}
	return strings.TrimSpace(r.out)
}

// pgbench lets the clients go on for a while, and returns transactions per second, by the guest's clock, and how long one took in the average, in ms:
// each client begins one when its last has ended.
func (b *bench) pgbench(clients int) (rate, delay float64) {
	b.Helper()
	rate = b.figures(1,
		// Connected, psql lets the clients go: so it waits for nobody.
		fmt.Sprintf(`\! kill -CONT %d`, b.pids[clients]),
		fmt.Sprintf(`DO $$
DECLARE
	before bigint;
	began timestamptz;
BEGIN
	PERFORM pg_sleep(%f);
	SELECT count(*), clock_timestamp() INTO before, began FROM pgbench_history;
	PERFORM pg_sleep(%f);
	PERFORM set_config('bench.figures', (SELECT (count(*) - before) / extract(epoch FROM clock_timestamp() - began) FROM pgbench_history)::text, false);
END $$`, settleFor.Seconds(), pgbenchFor.Seconds()),
		fmt.Sprintf(`\! kill -STOP %d`, b.pids[clients]))[0]
	if rate == 0 {
		b.Fatalf("%d clients have made no transaction", clients)
	}
	return rate, 1000 * float64(clients) / rate
}

// commits commits one row after the other, and measures the COMMIT alone, in ms of the guest's clock.
func (b *bench) commits() (median, most float64) {
	b.Helper()
	is := b.figures(2, fmt.Sprintf(`DO $$
DECLARE
	until timestamptz := clock_timestamp() + interval '%f s';
	asked timestamptz;
	took float8[] := '{}';
BEGIN
	WHILE clock_timestamp() < until LOOP
		INSERT INTO committed VALUES (1);
		asked := clock_timestamp();
		COMMIT;
		took := took || (1000 * extract(epoch FROM clock_timestamp() - asked))::float8;
	END LOOP;
	PERFORM set_config('bench.figures', (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY ms) || ' ' || percentile_cont(0.9) WITHIN GROUP (ORDER BY ms)
		FROM unnest(took) AS ms), false);
END $$`, commitsFor.Seconds()))
	return is[0], is[1]
}

// figures runs statements that leave so many in a setting of the session.
func (b *bench) figures(count int, statements ...string) []float64 {
	b.Helper()
	answer := strings.Fields(b.sql(append(statements, "SELECT current_setting('bench.figures')")...))
	if len(answer) != count {
		b.Fatalf("the database measured %q", answer)
	}
	all := make([]float64, count)
	for i, text := range answer {
		var err error
		if all[i], err = strconv.ParseFloat(text, 64); err != nil {
			b.Fatal(err)
		}
	}
	return all
}
