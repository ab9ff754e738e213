//go:build lab

package acceptance

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// onPostgres is a machine with a database: a Debian of its own, which the lab's guest hands over to.
var onPostgres = spec{name: service, site: "west", address: address, memory: "256MiB", volume: "1GiB", words: "quiet godwit.run=/sbin/serve"}

// postgresImage finds the machine's disk, and makes it the first time; it is kept where the guest's kernel is.
func postgresImage(t *testing.T) string {
	t.Helper()
	binary, _ := built(t)
	for program, from := range map[string]string{"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", "psql": "postgresql-client", "pgbench": "postgresql-contrib"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed (package %s): %v", program, from, err)
		}
	}
	cache := filepath.Join(filepath.Dir(binary), "..", ".cache")
	image := filepath.Join(cache, "postgres.raw")
	if _, err := os.Stat(image); err == nil {
		return image
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := during(t)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "../guest/postgres/build.sh", image).CombinedOutput(); err != nil {
		if bytes.Contains(out, []byte("apt-get update")) {
			t.Skipf("Debian's archive cannot be reached: %s", out)
		}
		t.Fatalf("build the database's machine: %v: %s", err, out)
	}
	return image
}

// sql asks the database, from the client's node.
func (w *world) sql(t *testing.T, statement string) result {
	t.Helper()
	return w.exec(t, "client", psql("30", "5", statement)...)
}

// psql is the command that has the database carry out statements in one session, within so many seconds, of which connecting may take some.
func psql(within, connected string, statements ...string) []string {
	argv := []string{"timeout", within, "env", "PGCONNECT_TIMEOUT=" + connected, "psql", "-h", address, "-U", "postgres", "-XqAt", "-v", "ON_ERROR_STOP=1"}
	for _, s := range statements {
		argv = append(argv, "-c", s)
	}
	return argv
}

// number is the answer to a statement that has one.
func (w *world) number(t *testing.T, statement string) int64 {
	t.Helper()
	r := w.sql(t, statement)
	n, err := strconv.ParseInt(strings.TrimSpace(r.out), 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", statement, r)
	}
	return n
}

func (w *world) databaseAnswers(t *testing.T) {
	t.Helper()
	eventually(t, 3*time.Minute, func() string {
		if r := w.sql(t, "SELECT 1"); r.code != 0 {
			return fmt.Sprintf("the database does not answer: %v", r)
		}
		return ""
	})
}

// lastNumber is the last whole line of what a client was told.
func lastNumber(t *testing.T, said string) int64 {
	t.Helper()
	raw, err := os.ReadFile(said)
	if err != nil {
		t.Fatal(err)
	}
	raw = raw[:bytes.LastIndexByte(raw, '\n')+1]
	if len(raw) == 0 {
		return 0
	}
	n, err := strconv.ParseInt(string(lastLine(raw)), 10, 64)
	if err != nil {
		t.Fatalf("the client was told %q", lastLine(raw))
	}
	return n
}

// TestADatabaseSurvivesItsSite kills the site under PostgreSQL while a client commits numbered rows and pgbench its transactions.
func TestADatabaseSurvivesItsSite(t *testing.T) {
	if !soak() {
		t.Skip("GODWIT_SOAK=1 builds a Debian with PostgreSQL, and boots it four times under emulation")
	}
	s := onPostgres
	s.image = postgresImage(t)
	w := up(t, "acc-pg", "--bandwidth", "1gbit")
	mode := "sync"
	w.must(t, "apply", "-f", manifest(t, s.protectedBy(w, mode)))
	w.databaseAnswers(t)
	for _, mode = range []string{"sync", "flush", "async"} {
		ok := t.Run(mode, func(t *testing.T) {
			if mode != "sync" {
				w.must(t, "lab", "link", "--name", w.name, "restore", otherSite(s.site))
				w.must(t, "apply", "-f", manifest(t, s.protectedBy(w, mode)))
			}
			w.inStep(t, s.site, mode)
			w.commitUntilTheSiteIsLost(t, s.site, mode)
			s.site = otherSite(s.site)
		})
		if !ok {
			t.Fatal("the rest begins from where this one ended, and is not tried")
		}
	}
}

func (w *world) commitUntilTheSiteIsLost(t *testing.T, from, mode string) {
	t.Helper()
	const rows, unshipped = 40, 10
	to := otherSite(from)
	first := w.number(t, "SELECT count(*) FROM acknowledged")
	before := w.number(t, "SELECT count(*) FROM pgbench_history")
	numbers, bench := t.TempDir(), t.TempDir()
	said, stopRows := w.background(t, numbers, fmt.Sprintf(
		`for ((n = %d; ; n++)); do echo "INSERT INTO acknowledged VALUES ($n) RETURNING n;"; done | stdbuf -oL psql -h $0 -U postgres -XqAt -v ON_ERROR_STOP=1`, first+1))
	// One line for each transaction that pgbench was told is committed.
	_, stopBench := w.background(t, bench, `pgbench -h $0 -U postgres -n -c 2 -T 3600 -l --log-prefix=transactions postgres >/dev/null 2>&1`)
	committedUpTo := func(least int64) {
		t.Helper()
		eventually(t, 3*time.Minute, func() string {
			if n := lastNumber(t, said); n < least {
				return fmt.Sprintf("%d rows are committed, and %d were before", n, first)
			}
			return ""
		})
	}
	committedUpTo(first + rows)
	eventually(t, 3*time.Minute, func() string {
		if n := w.number(t, "SELECT count(*) FROM pgbench_history"); n <= before {
			return fmt.Sprintf("pgbench has made no transaction: %d", n-before)
		}
		return ""
	})
	if mode == "async" { // what is not shipped is lost, and what is shipped has to be a database still, with something of both
		w.shipped(t, from, time.Now())
		w.must(t, "lab", "link", "--name", w.name, "cut", to)
		committedUpTo(lastNumber(t, said) + unshipped)
	}
	w.strike(t, from)
	told := lastNumber(t, said)
	stopRows()
	stopBench()
	if mode == "async" {
		w.must(t, "lab", "link", "--name", w.name, "restore", to)
	}
	w.takeOver(t)
	w.databaseAnswers(t)

	count, last := w.number(t, "SELECT count(*) FROM acknowledged"), w.number(t, "SELECT coalesce(max(n), 0) FROM acknowledged")
	if last < told && mode != "async" || count != last {
		t.Errorf("a client was told of %d rows; %d are there, up to %d", told, count, last)
	}
	sums := w.sql(t, `SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
		(SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(delta) FROM pgbench_history)`)
	if f := strings.Split(strings.TrimSpace(sums.out), "|"); len(f) != 4 || f[0] == "" || f[0] != f[1] || f[0] != f[2] || f[0] != f[3] {
		t.Errorf("accounts, tellers, branches and history have the sums %v", sums)
	}
	committed, is := logged(t, bench), w.number(t, "SELECT count(*) FROM pgbench_history")-before
	if is < committed && mode != "async" || is == 0 {
		t.Errorf("pgbench was told of %d transactions, %d are in the history", committed, is)
	}
	t.Logf("POSTGRES | %s | told of %d rows and of at least %d transactions of pgbench | %d rows and %d transactions are there, and the sums agree (%s)",
		mode, told-first, committed, last-first, is, strings.TrimSpace(sums.out))
	w.number(t, fmt.Sprintf("INSERT INTO acknowledged VALUES (%d) RETURNING n", last+1))
}

// logged counts the transactions in the logs that pgbench has left.
func logged(t *testing.T, dir string) (lines int64) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "transactions.*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines += int64(bytes.Count(raw, []byte("\n")))
	}
	return lines
}
