//go:build lab

package acceptance

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// How much is measured: in each round every mode once, in every mode each row for so long.
const (
	benchRounds = 3
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
	w       *world
	s       spec
	connect map[int]time.Duration // what so many clients needed to connect, which is not measured
	seen    map[string][][2]float64
}

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
	b := &bench{T: t, w: up(t, "acc-pgbench", "--bandwidth", "400mbit"), s: s, connect: make(map[int]time.Duration), seen: make(map[string][][2]float64)}
	b.w.must(t, "apply", "-f", manifest(t, s.manifest(b.w)))
	b.w.databaseAnswers(t)
	b.warmUp()
	t.Logf("PGBENCH | warm after %.0f s; %d and %d clients connect in %.1f and %.1f s", time.Since(began).Seconds(), 1, 64, b.connect[1].Seconds(), b.connect[64].Seconds())
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

// warmUp has everything done once that is slower the first time, and finds out how long clients take to connect.
func (b *bench) warmUp() {
	b.Helper()
	b.sql("CREATE TABLE committed (n int)")
	for _, clients := range []int{1, 64} {
		b.run(clients, "-t", "1")
		b.pgbench(clients)
	}
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
	r := b.w.sql(b.T, statements...)
	if r.code != 0 {
		b.Fatalf("%q: %v", statements, r)
	}
	return strings.TrimSpace(r.out)
}

// commits commits one row after the other, and measures the COMMIT alone, in ms of the guest's clock.
func (b *bench) commits() (median, most float64) {
	b.Helper()
	answer := b.sql(fmt.Sprintf(`DO $$
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
	PERFORM set_config('bench.median', (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY ms) FROM unnest(took) AS ms)::text, false);
	PERFORM set_config('bench.most', (SELECT percentile_cont(0.9) WITHIN GROUP (ORDER BY ms) FROM unnest(took) AS ms)::text, false);
END $$`, commitsFor.Seconds()), "SELECT current_setting('bench.median') || ' ' || current_setting('bench.most')")
	if _, err := fmt.Sscan(answer, &median, &most); err != nil {
		b.Fatalf("the database measured %q: %v", answer, err)
	}
	return median, most
}

// pgbench returns transactions per second, and how long one took, in ms.
func (b *bench) pgbench(clients int) (rate, delay float64) {
	b.Helper()
	for {
		seconds := math.Ceil((b.connect[clients] + pgbenchFor).Seconds())
		rate, delay, done := b.run(clients, "-T", fmt.Sprint(seconds))
		if done {
			return rate, delay
		}
		b.connect[clients] *= 2
		b.Logf("%d clients had no time left when they were connected; they get more", clients)
	}
}

var pgbenchSays = regexp.MustCompile(`failed transactions: (\d+)[\s\S]*latency average = ([\d.]+) ms\s+initial connection time = ([\d.]+) ms\s+tps = ([\d.]+)`)

// run calls pgbench once. done says that there was a transaction, which there is not if the clients need all the time to connect.
func (b *bench) run(clients int, length ...string) (rate, delay float64, done bool) {
	b.Helper()
	argv := []string{"timeout", "150", "pgbench", "-h", address, "-U", "postgres", "-n", "-N", "-c", fmt.Sprint(clients)}
	r := b.w.exec(b.T, "client", append(append(argv, length...), "postgres")...)
	if r.code == 0 && strings.Contains(r.out, "actually processed: 0\n") {
		return 0, 0, false
	}
	got := pgbenchSays.FindStringSubmatch(r.out)
	if r.code != 0 || got == nil {
		b.Fatalf("pgbench with %d clients: %v", clients, r)
	}
	var failed, connect float64
	for i, figure := range []*float64{&failed, &delay, &connect, &rate} {
		var err error
		if *figure, err = strconv.ParseFloat(got[i+1], 64); err != nil {
			b.Fatal(err)
		}
	}
	if failed != 0 {
		b.Fatalf("pgbench with %d clients: %v", clients, r)
	}
	b.connect[clients] = time.Duration(connect * float64(time.Millisecond))
	return rate, delay, true
}
