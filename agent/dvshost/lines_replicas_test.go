package dvshost_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// group is a replicated counter at nodes a, b and c, each a process.
type group struct {
	*testing.T
	nodes map[string]*killable
	lines map[string]*line // by "from to"
}

func startGroup(t *testing.T, mode string) *group {
	t.Helper()
	g := &group{T: t, lines: map[string]*line{}}
	g.nodes = startProcesses(t, true, threeNames, func(from, to, address string) string {
		l, begin := startLine(t, address)
		g.lines[from+" "+to] = l
		return begin
	})
	if err := g.nodes["a"].RunReplicated(patient(t), "shop", "counter", module(t, built.counter), "", "1m", mode, threeNames); err != nil {
		t.Fatal(err)
	}
	return g
}

// answers waits until one of these nodes answers, and none of the others takes itself for it, and it knows that all of them, and nobody else, have the
// state. It returns its name.
func (g *group) answers(among []string) (who string) {
	g.Helper()
	eventually(g.T, fmt.Sprintf("replicas at %v, one of which answers", among), func() string {
		state, have := "", 0
		for _, name := range among {
			all, err := g.nodes[name].List(patient(g))
			state += fmt.Sprint(name, all, err)
			if err != nil || len(all) != 1 {
				return state
			}
			if all[0].State == "answering" {
				who = name
				have += all[0].Replicas
			}
		}
		if have != len(among) {
			return state
		}
		return ""
	})
	return who
}

// clients add to the counter from a node.
func (g *group) clients(at string) *puppet {
	g.Helper()
	return startLoadAt(g.T, g.nodes[at], loadSpec{Container: "shop", To: "counter", Name: "client", Count: 3, Request: "1"})
}

// but returns the names without this one.
func but(name string) []string {
	return slices.DeleteFunc(slices.Clone(threeNames), func(n string) bool { return n == name })
}

// tell shows what the nodes have said, if the test has failed.
func (g *group) tell() {
	if g.Failed() {
		for _, n := range g.nodes {
			g.Logf("%s:\n%s", n.name, &n.log)
		}
	}
}

// cut parts or joins nodes, in the direction that is said.
func (g *group) cut(yes bool, from, to string) { g.lines[from+" "+to].set(yes) }

// cutOff parts a node from the others, or joins it.
func (g *group) cutOff(yes bool, name string) {
	for _, other := range but(name) {
		g.cut(yes, name, other)
		g.cut(yes, other, name)
	}
}

// verdicts returns what the watcher at a node has said so far.
func (g *group) verdicts(at string) (all []string) {
	for _, line := range strings.Split(g.nodes[at].log.String(), "\n") {
		if _, words, found := strings.Cut(line, "verdict="); found && strings.Contains(line, "DVS replica watches") {
			all = append(all, words)
		}
	}
	return all
}

// hears waits until the watcher at a node says something that it had not said before.
func (g *group) hears(at, verdict string, before int) {
	g.Helper()
	eventually(g.T, fmt.Sprintf("%q at %s", verdict, at), func() string {
		all := g.verdicts(at)
		if len(all) > before && slices.ContainsFunc(all[before:], func(s string) bool { return strings.HasPrefix(s, verdict) }) {
			return ""
		}
		return fmt.Sprint(all)
	})
}

// said is how much the watchers have said so far.
func (g *group) said() map[string]int {
	all := map[string]int{}
	for name := range g.nodes {
		all[name] = len(g.verdicts(name))
	}
	return all
}

// rebound sees to it that nodes were sent from one that answered to another, which has suspected the first.
func (g *group) rebound(first string, nodes []string, before map[string]int) {
	g.Helper()
	for _, name := range nodes {
		g.hears(name, "rebind primary=", before[name])
	}
	next := g.answers(nodes)
	if said := g.verdicts(next)[before[next]:]; next == first || !slices.Contains(said, "hold primary="+first) {
		g.Errorf("%s took over from %s without having suspected it: %v", next, first, said)
	}
}

// Line 23: the node of the primary is killed while clients ask. A backup takes over, what was acknowledged is there, and no client sees an error. The killed
// one begins again and is given the state; then it is the new primary's turn. Line 25: the watchers suspect it, and go to the next. Line 24: the same with
// active replicas; clients are redirected, and those that are left agree. In either group a replica that does not answer is killed as well.
func TestLine23And24And25AReplicaIsKilledProcesses(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"passive", "active"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			g := startGroup(t, mode)
			defer g.tell()
			was := int64(0)
			for _, leads := range []bool{true, false, true} {
				answers := g.answers(threeNames)
				victim := answers
				if !leads {
					victim = but(answers)[0]
				}
				rest := but(victim)
				clients := []*puppet{g.clients(rest[0]), g.clients(rest[1])}
				advance(t, 20, clients...)
				before := g.said()
				g.nodes[victim].kill()
				advance(t, 20, clients...)
				if leads && mode == "passive" { // in an active group the log chooses
					g.rebound(victim, rest, before)
				}
				g.answers(rest) // who began again before its end was noticed would not be missed
				g.nodes[victim].begin(t)
				advance(t, 20, clients...)
				was = settleCounter(t, was, g.nodes[rest[0]], "shop", "counter", clients...)
				t.Logf("%s was killed, and %s had answered", victim, answers)
			}
			for _, name := range threeNames {
				if got := g.nodes[name].ask(t, "shop", "counter", "0"); got != fmt.Sprint(was) {
					t.Errorf("asked from %s the counter is %s, not %d", name, got, was)
				}
			}
		})
	}
}

// Line 25: the watcher at each node. The primary is silent, and is heard again before another could take over: all goes on with it (rollback). It is parted
// from the others: those who ask it there are held and go to the next (commit, rebind), and those on its own side when the partition heals. Its death is in
// the test of line 23. No caller sees an error, nothing is lost or comes twice, and callers that no other node has heard of are answered.
func TestLine25TheWatcherHoldsKeepsAndRebindsProcesses(t *testing.T) {
	t.Parallel()
	g := startGroup(t, "passive")
	defer g.tell()
	clients := map[string]*puppet{}
	for _, name := range threeNames {
		clients[name] = g.clients(name)
	}
	advance(t, 20, clients["a"], clients["b"], clients["c"])
	g.silence(clients)
	g.partition(clients)
}

// silence has nobody hear anybody, so that nobody can agree on anything; then who answers is heard, and nobody else, until it goes on: what the others
// have asked for is too late then.
func (g *group) silence(clients map[string]*puppet) {
	g.Helper()
	first := g.answers(threeNames)
	before, others := g.said(), but(first)
	for _, name := range threeNames {
		g.cutOff(true, name)
	}
	for _, name := range others {
		g.hears(name, "hold primary="+first, before[name])
	}
	for _, name := range others {
		g.cut(false, first, name)
	}
	for _, name := range others {
		g.hears(name, "keep primary="+first, before[name])
	}
	advance(g.T, 20, clients[first])
	for _, name := range threeNames {
		g.cutOff(false, name)
	}
	advance(g.T, 20, clients["a"], clients["b"], clients["c"])
	if now := g.answers(threeNames); now != first {
		g.Errorf("%s answers, though %s had been heard again", now, first)
	}
}

// partition parts who answers from the others, until those have gone on. It ends the clients.
func (g *group) partition(clients map[string]*puppet) {
	g.Helper()
	first := g.answers(threeNames)
	before, others := g.said(), but(first)
	g.cutOff(true, first)
	g.rebound(first, others, before)
	advance(g.T, 20, clients[others[0]], clients[others[1]])
	stranger := g.clients(others[0])
	advance(g.T, 20, stranger)
	g.cutOff(false, first)
	second := g.answers(threeNames)
	g.hears(first, "rebind primary="+second, before[first])
	advance(g.T, 20, clients[first])
	settleCounter(g.T, 0, g.nodes[first], "shop", "counter", stranger, clients["a"], clients["b"], clients["c"])
}
