//go:build lab

package acceptance

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// interruption is what dies in the middle of a failover, and when. TO and FROM in a name stand for the sites.
type interruption struct {
	what   string
	daemon string   // whose log tells the moment
	says   string   // what is said then; empty for the moment in which the command is given
	dies   []string // names of daemons, which the lab starts again; or newServer
}

// newServer is, among those that die, the virtual server at the new site; the controller has it started again.
const newServer = "the virtual server"

// decided is the moment after the decision, and promoted the one in which the volumes have a new owner and nothing runs yet.
const (
	saysDecided  = "service is failed over"
	saysPromoted = "the standing replica has become the service's volumes"
	saysDemoted  = "its volumes here are demoted"
	saysRuns     = "service runs"
	saysOldEdge  = `msg="agent connected" agent=FROM-edge`
)

// allDie is the one that is tried by default.
var allDie = interruption{"the controller and both agents of the new site, when it is decided", "controller", saysDecided, []string{"controller", "agent TO-host", "agent TO-edge"}}

func (i interruption) names(from, to string) (daemon, says string, dies []string) {
	sites := strings.NewReplacer("FROM", from, "TO", to)
	for _, name := range i.dies {
		dies = append(dies, sites.Replace(name))
	}
	return sites.Replace(i.daemon), sites.Replace(i.says), dies
}

// whileIt kills at the moment, which comes while act goes on. What died is back when it returns; act may still go on.
func (w *world) whileIt(t *testing.T, i interruption, from, to string, act func()) {
	t.Helper()
	daemon, says, dies := i.names(from, to)
	pids := w.daemonsNow(t) // the lost site's are about to be started again
	log := w.followLog(t, daemon)
	defer log.Close()
	act()
	if says != "" {
		log.awaitLine(t, says, 2*time.Minute, func(line string) bool { return strings.Contains(line, says) })
	}
	for _, name := range dies {
		if name == newServer {
			pids[name] = w.machines(t, to+"-host")[0]
		}
		if pids[name] == 0 {
			t.Fatalf("%s does not run", name)
		}
		if err := syscall.Kill(pids[name], syscall.SIGKILL); err != nil {
			t.Fatalf("kill %s: %v", name, err)
		}
	}
}

// failoverThrough fails the service over, whatever dies meanwhile: the command, given once, sees it through. Meanwhile nothing may run
// at the lost site, nor twice at the other.
func (w *world) failoverThrough(t *testing.T, i interruption, to string) (told string) {
	t.Helper()
	w.mayFailOver(t)
	cmd := w.alongside(t, "failover", service)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	ended := make(chan error, 1)
	w.whileIt(t, i, otherSite(to), to, func() {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { ended <- cmd.Wait() }()
	})
	running := true
	eventually(t, 2*time.Minute, func() string {
		if here, there := w.machines(t, to+"-host"), w.machines(t, otherSite(to)+"-host"); len(here) > 1 || len(there) > 0 {
			t.Fatalf("%d virtual servers run at %s, and %d at the lost site", len(here), to, len(there))
		}
		if running {
			select {
			case err := <-ended:
				if running, told = false, "the command saw it through"; err != nil {
					t.Fatalf("godwit failover gave up: %v: %s", err, said.String())
				}
				if strings.Contains(said.String(), "answers again") {
					told = "the command asked again, and saw it through"
				}
			default:
				return "godwit failover does not end"
			}
		}
		r := w.godwit(t, "get", "service", service, "-o", "json")
		var is struct{ Status struct{ Site, Phase string } }
		if err := json.Unmarshal([]byte(r.out), &is); err != nil {
			return fmt.Sprintf("the controller does not answer: %v", r)
		}
		if is.Status.Site != to {
			t.Fatalf("it is at %s still, and godwit failover said %s", is.Status.Site, said.String())
		}
		if is.Status.Phase != "running" {
			return fmt.Sprintf("it is %s; godwit failover said %s", is.Status.Phase, said.String())
		}
		return ""
	})
	w.answering(t)
	if here := w.machines(t, to+"-host"); len(here) != 1 {
		t.Errorf("%d virtual servers run at %s", len(here), to)
	}
	return told
}

// mayFailOver waits until it is known that the site does not answer.
func (w *world) mayFailOver(t *testing.T) {
	t.Helper()
	eventually(t, 30*time.Second, func() string {
		type host struct {
			Name, Site string
			Ready      bool
		}
		site := w.site(t)
		for _, h := range get[listOf[host]](t, w, "hosts").Items {
			if h.Site == site && h.Ready {
				return h.Name + " still counts as ready"
			}
		}
		return ""
	})
}

// interruptions are all that are tried: who dies, and at which moment of the failover or of the old site's return.
func interruptions() []interruption {
	const controller, host, edge = "controller", "agent TO-host", "agent TO-edge"
	return []interruption{
		{"the controller, when it is asked", controller, "", []string{controller}},
		{"the controller, when it is decided", controller, saysDecided, []string{controller}},
		{"the new site's host agent, when it is decided", controller, saysDecided, []string{host}},
		{"the new site's host agent, when it is asked", controller, "", []string{host}},
		{"the new site's edge agent, when it is decided", controller, saysDecided, []string{edge}},
		allDie,
		{"the controller, when the volumes have their new owner", host, saysPromoted, []string{controller}},
		{"the new site's host agent, when the volumes have their new owner", host, saysPromoted, []string{host}},
		{"the new site's edge agent, when the volumes have their new owner", host, saysPromoted, []string{edge}},
		{"the controller and both agents of the new site, when the volumes have their new owner", host, saysPromoted, []string{controller, host, edge}},
		{"the controller, when the service runs", controller, saysRuns, []string{controller}},
		{"the new site's host agent, when the service runs", controller, saysRuns, []string{host}},
		{"the new virtual server, when the service runs", controller, saysRuns, []string{newServer}},
		{"the controller, both agents and the virtual server, when the service runs", controller, saysRuns, []string{controller, host, edge, newServer}},
	}
}

// returns are what dies when the old site is back and told that it has lost the service.
func returns() []interruption {
	return []interruption{
		{"the old site's host agent, when its volumes are demoted", "agent FROM-host", saysDemoted, []string{"agent FROM-host"}},
		{"the controller, when the old site's volumes are demoted", "agent FROM-host", saysDemoted, []string{"controller"}},
		{"the new site's host agent, when the old site's volumes are demoted", "agent FROM-host", saysDemoted, []string{"agent TO-host"}},
		{"the old site's edge agent, when it is back", "controller", saysOldEdge, []string{"agent FROM-edge"}},
		{"the controller and both host agents, when the old site's volumes are demoted", "agent FROM-host", saysDemoted, []string{"controller", "agent FROM-host", "agent TO-host"}},
	}
}

// manyWrites is what a guest makes in half a minute.
const manyWrites = 1000

// TestAFailoverSurvivesWhoeverDiesInIt fails a service over to and fro. One of these is part of the default run, in the test of the file system.
func TestAFailoverSurvivesWhoeverDiesInIt(t *testing.T) {
	if !soak() {
		t.Skip("GODWIT_SOAK=1 tries every moment; one of them is in TestAnExt4SurvivesItsSiteInEveryMode")
	}
	w := up(t, "acc-failkill", "--bandwidth", "400mbit")
	w.startReplicated(t, "sync")
	back := returns()
	var most uint64 // writes of one boot so far: the newest one has to have more, so that its writes are told from those before
	for n, i := range interruptions() {
		ok := t.Run(i.what, func(t *testing.T) {
			if most > manyWrites { // it would take too long to make more: begin with empty disks
				w.must(t, "delete", "service", service)
				w.startReplicated(t, "sync")
				most = 0
			}
			from := w.site(t)
			to := otherSite(from)
			paths := map[string]string{}
			for site, c := range w.copies(t) {
				paths[site] = c.Path
			}
			enough := max(w.acked(t)+300, most+100)
			eventually(t, time.Minute, func() string {
				if now := w.acked(t); now < enough {
					return fmt.Sprintf("only %d of %d writes were made", now, enough)
				}
				return ""
			})
			seen := w.acked(t)
			w.strike(t, from)
			told := w.failoverThrough(t, i, to)
			last := survived(t, paths[from], paths[to])
			if most = last; last < seen {
				t.Errorf("the lost site made %d writes, a client saw %d", last, seen)
			}
			t.Logf("INTERRUPTED | %s | %s | %d writes made, %d seen by a client, none lost", i.what, told, last, seen)

			restore := func() { w.must(t, "lab", "link", "--name", w.name, "restore", from) }
			if n < len(back) {
				w.whileIt(t, back[n], from, to, restore)
			} else {
				restore()
			}
			w.followsAgain(t, from, "sync")
			if n < len(back) {
				t.Logf("INTERRUPTED | %s | the old volumes follow the new ones, one primary, one virtual server", back[n].what)
			}
		})
		if !ok {
			t.Fatal("the rest begins from where this one ended, and is not tried")
		}
	}
}

// followsAgain waits until the volumes of a lost site follow those of the new one, and nothing runs there.
func (w *world) followsAgain(t *testing.T, lost, mode string) {
	t.Helper()
	eventually(t, time.Minute, func() string {
		if r := w.godwit(t, "get", "volumes"); r.code != 0 {
			return fmt.Sprintf("the controller does not answer: %v", r)
		}
		return ""
	})
	w.inStep(t, otherSite(lost), mode)
	if here, there := w.machines(t, lost+"-host"), w.machines(t, otherSite(lost)+"-host"); len(here) != 0 || len(there) != 1 {
		t.Errorf("%d virtual servers run at the old site, %d at the new one", len(here), len(there))
	}
}
