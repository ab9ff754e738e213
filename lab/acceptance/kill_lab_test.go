//go:build lab

package acceptance

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var phases = []string{"preparing", "converging", "synchronizing", "quiesced", "committed", "optimizing"}

// accident is what happens to a migration, and in which phase.
type accident struct {
	what, phase string
	// strike is called when the phase has been entered, with the migration's source and destination. It returns what has to
	// be made good again when the migration has been given its time, or nil.
	strike func(t *testing.T, w *world, from, to string) (repair func())
	// after is how long after the entry into the phase to strike.
	after time.Duration
}

// TestWhateverDiesTheServiceRunsAtOneSiteAndItsClientLosesNothing goes through the accidents. All share one lab, and
// the service moves on from where the last one left it.
func TestWhateverDiesTheServiceRunsAtOneSiteAndItsClientLosesNothing(t *testing.T) {
	w := up(t, "acc-kill", "--bandwidth", "400mbit")
	w.start(t)
	stable := map[string]inventory{"west": w.inventory(t)}
	w.must(t, "migrate", service, "--to", "east")
	w.ownedOnce(t)
	stable["east"] = w.inventory(t)
	for _, a := range accidents() {
		passed := t.Run(a.what+" while "+a.phase, func(t *testing.T) {
			for attempt := range 3 {
				if a.happen(t, w, stable, attempt) || t.Failed() {
					return
				}
			}
			t.Logf("MISSED: the phase was over before it could be hit, three times; what is claimed held in the phases that were")
		})
		if !passed && !w.settled(t) {
			w.renew(t)
		}
	}
}

func accidents() []accident {
	var all []accident
	for _, phase := range phases {
		all = append(all, accident{what: "the controller dies", phase: phase, strike: kill("controller")})
	}
	roles := []struct{ name, role, part string }{
		{"the source's host agent dies", "source", "host"},
		{"the destination's host agent dies", "destination", "host"},
		{"the source's edge agent dies", "source", "edge"},
		{"the destination's edge agent dies", "destination", "edge"},
	}
	for _, r := range roles {
		for _, phase := range phases {
			all = append(all, accident{what: r.name, phase: phase, strike: killAgent(r.role, r.part)})
		}
	}
	for _, phase := range []string{"converging", "synchronizing", "quiesced"} {
		all = append(all, accident{what: "the destination's QEMU dies", phase: phase, strike: killQEMU})
	}
	for _, role := range []string{"source", "destination"} {
		for _, phase := range []string{"converging", "quiesced", "committed"} {
			all = append(all, accident{what: "the " + role + " is cut off for 10 s", phase: phase, strike: cut(role), after: 5 * time.Millisecond})
		}
	}
	if soak() {
		return all
	}
	return slices.DeleteFunc(all, func(a accident) bool { return !slices.Contains(usual(a.what), a.phase) })
}

// usual are the phases that are tried by default: around the commit, where most may go wrong, and one of the long ones before.
func usual(what string) []string {
	switch what {
	case "the controller dies":
		return []string{"converging", "quiesced", "committed"}
	case "the source's host agent dies", "the destination's host agent dies":
		return []string{"quiesced", "committed"}
	case "the destination's QEMU dies":
		return []string{"quiesced"}
	case "the destination is cut off for 10 s":
		return []string{"converging"}
	default:
		return []string{"committed"}
	}
}

// happen moves the service once, lets the accident happen, and checks everything. It says whether the phase was hit.
func (a accident) happen(t *testing.T, w *world, stable map[string]inventory, attempt int) (hit bool) {
	t.Helper()
	const atMost = 2 * time.Minute
	from := w.site(t)
	to := otherSite(from)
	p := w.probe(t)
	log := w.follow(t)
	defer log.Close()
	w.pids = w.daemons(t)
	started := time.Now()
	cmd := w.alongside(t, "migrate", service, "--to", to)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if a.phase == "preparing" {
		eventually(t, 20*time.Second, func() string {
			if !w.migrationSince(t, started) {
				return "the migration does not begin"
			}
			return ""
		})
	} else {
		log.await(t, a.phase, 90*time.Second)
	}
	// A phase that is over too soon is struck a little earlier or later each time.
	time.Sleep(a.after + time.Duration(attempt)*7*time.Millisecond)
	struck := time.Now()
	repair := a.strike(t, w, from, to)
	done := time.Now()
	if repair != nil {
		time.Sleep(10 * time.Second) // as long as the outage is to be
		repair()
	}
	err := cmd.Wait()
	var m migrationView
	eventually(t, atMost, func() string {
		if m = w.migration(t, ""); !m.ended() {
			return "the migration has not ended: " + m.story()
		}
		return ""
	})
	w.ownedOnce(t)
	if missing := w.awaitAnswer(t); missing != "" {
		t.Error(missing)
	}
	report := p.stop(t)
	w.verify(t, report.LastAcked)
	if !w.migrationSince(t, started) {
		t.Errorf("the migration was not even begun: %s", said.String())
		return true
	}
	if site := w.site(t); (m.Phase == "completed") != (site == to) {
		t.Errorf("the service is at %s: %s", site, m.story())
	}
	if (err == nil) != (m.Phase == "completed") {
		t.Errorf("godwit migrate ended with %v: %s", err, said.String())
	}
	if m.Phase == "aborted" && (m.Reason == "" || !strings.Contains(said.String(), m.Reason)) {
		t.Errorf("nobody is told why it was aborted: %s\n%s", m.story(), said.String())
	}
	w.nothingLeft(t, stable[w.site(t)])
	hit = m.at(struck) == a.phase
	t.Logf("FAILURE | %s | %s | struck in %s..%s | %s | %s", a.what, a.phase, m.at(struck), m.at(done), m.story(), gap(report))
	return hit
}

// answers says whether the service can be reached.
func (w *world) answers(t *testing.T) bool {
	r := w.ask(t, "7001", "stats") // not 7000, which counts requests, and the probe checks the count
	return r.code == 0 && r.out != ""
}

func (w *world) awaitAnswer(t *testing.T) (missing string) {
	const limit = 20 * time.Second
	for begun := time.Now(); time.Since(begun) < limit; time.Sleep(200 * time.Millisecond) {
		if w.answers(t) {
			return ""
		}
	}
	return fmt.Sprintf("the service does not answer for %v after the migration has ended", limit)
}

// settled says whether the next accident can begin: no migration is under way, and the service answers.
func (w *world) settled(t *testing.T) bool { return w.migration(t, "").ended() && w.answers(t) }

// renew begins with a new lab after an accident that broke the service, so that those after it can be judged by themselves.
func (w *world) renew(t *testing.T) {
	t.Helper()
	t.Log("the service is broken; the lab is built anew")
	w.keepLogs(t)
	w.must(t, "lab", "down", "--name", w.name)
	w.must(t, append([]string{"lab", "up", "--name", w.name}, w.flags...)...)
	w.start(t)
}

// migrationSince says whether a migration has begun after a moment.
func (w *world) migrationSince(t *testing.T, moment time.Time) bool {
	for _, m := range get[listOf[migrationView]](t, w, "migrations").Items {
		if m.Started.After(moment) {
			return true
		}
	}
	return false
}

// kill ends a daemon the hard way.
func kill(name string) func(*testing.T, *world, string, string) func() {
	return func(t *testing.T, w *world, _, _ string) func() {
		if err := syscall.Kill(w.pids[name], syscall.SIGKILL); err != nil {
			t.Fatalf("kill %s: %v", name, err)
		}
		return nil
	}
}

func killAgent(role, part string) func(*testing.T, *world, string, string) func() {
	return func(t *testing.T, w *world, from, to string) func() {
		return kill("agent "+siteOf(role, from, to)+"-"+part)(t, w, from, to)
	}
}

func siteOf(role, from, to string) string {
	if role == "source" {
		return from
	}
	return to
}

func killQEMU(t *testing.T, w *world, _, to string) func() {
	for _, pid := range w.machines(t, to+"-host") {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	return nil
}

func cut(role string) func(*testing.T, *world, string, string) func() {
	return func(t *testing.T, w *world, from, to string) func() {
		site := siteOf(role, from, to)
		w.must(t, "lab", "link", "--name", w.name, "cut", site)
		return func() { w.must(t, "lab", "link", "--name", w.name, "restore", site) }
	}
}

// phaseLog follows what a daemon says: the controller of phases, which is told the moment that they are entered.
type phaseLog struct {
	file *os.File
	read *bufio.Reader
	part string
}

func (w *world) follow(t *testing.T) *phaseLog { return w.followLog(t, "controller") }

func (w *world) followLog(t *testing.T, daemon string) *phaseLog {
	t.Helper()
	file, err := os.Open(filepath.Join(w.dir, "logs", strings.ReplaceAll(daemon, " ", "-")+".log"))
	if err == nil {
		_, err = file.Seek(0, io.SeekEnd)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &phaseLog{file: file, read: bufio.NewReader(file)}
}

func (l *phaseLog) Close() { l.file.Close() }

// await reads on until the phase, or a later one, is entered.
func (l *phaseLog) await(t *testing.T, phase string, limit time.Duration) {
	t.Helper()
	l.awaitLine(t, "a migration in phase "+phase, limit, func(line string) bool {
		return strings.Contains(line, `msg="migration phase"`) && reached(line, phase)
	})
}

// awaitLine reads on until the line comes.
func (l *phaseLog) awaitLine(t *testing.T, what string, limit time.Duration, is func(line string) bool) {
	t.Helper()
	const pause = time.Millisecond
	until, why := patience(t, limit)
	for time.Now().Before(until) {
		line, err := l.read.ReadString('\n')
		l.part += line
		if err != nil {
			time.Sleep(pause)
			continue
		}
		line, l.part = l.part, ""
		if is(line) {
			return
		}
	}
	t.Fatalf("%s: %s says nothing of %s", why, filepath.Base(l.file.Name()), what)
}

func reached(line, phase string) bool {
	for i, p := range phases {
		if p == phase {
			for _, later := range append(phases[i:], "completed", "aborted") {
				if strings.Contains(line, " phase="+later+" ") {
					return true
				}
			}
		}
	}
	return false
}
