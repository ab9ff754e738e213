package controller

import (
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/migration"
)

// The controller is killed while a step of each phase is at work. The next one finishes the migration. The service goes
// from a to b and back, so that every attempt begins where the one before has ended.
func TestTheNextControllerFinishesWhatAKilledOneBegan(t *testing.T) {
	w := newWorld(t)
	w.site("a")
	w.site("b")
	w.running(specOf("shop", "a"))
	from, to := "a", "b"
	for _, c := range []struct{ step, phase string }{
		{"storage/source/prepare", "preparing"},
		{"server/source/converge", "converging"},
		{"storage/source/synchronize", "synchronizing"},
		{"server/source/quiesce", "quiesced"},
		{"server/destination/commit", "committed"},
		{"network/source/commit", "committed"},
		{"storage/source/release", "optimizing"},
	} {
		t.Run(c.step, func(t *testing.T) {
			agent := w.agentFor(c.step, from, to)
			g := agent.stopAt(c.step)
			name := w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: to}).GetName()
			g.wait(t)
			if m := w.follow(name, "at the step", func(*pb.Migration) bool { return true }); m.GetPhase() != c.phase {
				t.Fatalf("the migration is %s, want %s", m.GetPhase(), c.phase)
			}
			w.kill()
			close(g.open)
			w.live()
			w.ended(name, migration.Completed)
			w.ownedBy("shop", "host-"+to)
			w.inPhase("shop", serviceRunning)
			if agent.count(c.step) < 2 {
				t.Errorf("%s was not sent again", c.step)
			}
			for _, a := range w.agents {
				if n := a.count("server/source/abort") + a.count("server/destination/abort"); n != 0 {
					t.Errorf("%s was told to abort", a.name)
				}
			}
			from, to = to, from
		})
	}
}

// agentFor is who carries out a step, for a migration between two sites with one host and one edge each.
func (w *world) agentFor(step, from, to string) *fakeAgent {
	id, site, kind := migration.StepID(step), from, "host-"
	if id.Role() == migration.Destination {
		site = to
	}
	if id.Participant() == migration.Network {
		kind = "edge-"
	}
	for _, a := range w.agents {
		if a.name == kind+site {
			return a
		}
	}
	w.t.Fatalf("nobody for %s", step)
	return nil
}

func TestTheNextControllerRollsBackWhenItCannotGoOn(t *testing.T) {
	for _, step := range []string{"server/source/converge", "server/source/quiesce"} {
		t.Run(step, func(t *testing.T) {
			w := newWorld(t)
			w.site("a")
			w.site("b")
			w.running(specOf("shop", "a"))
			before := w.ownedBy("shop", "host-a")
			agent := w.agentFor(step, "a", "b")
			g := agent.stopAt(step)
			name := w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b"}).GetName()
			g.wait(t)
			w.kill()
			agent.failAt(step, "the stream to the destination broke")
			close(g.open)
			w.live()
			if m := w.ended(name, migration.Aborted); !strings.Contains(m.GetReason(), step) {
				t.Errorf("reason is %q", m.GetReason())
			}
			if after := w.ownedBy("shop", "host-a"); after != before {
				t.Errorf("owner is %+v, was %+v", after, before)
			}
		})
	}
}

func TestTheNextControllerFinishesAnAbort(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	w.site("b")
	w.running(specOf("shop", "a"))
	hostA.failAt("server/source/synchronize", "the guest writes faster than the line")
	g := hostA.stopAt("server/source/abort")
	name := w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b"}).GetName()
	g.wait(t)
	w.kill()
	close(g.open)
	w.live()
	if m := w.ended(name, migration.Aborted); !strings.Contains(m.GetReason(), "faster than the line") {
		t.Errorf("reason is %q", m.GetReason())
	}
	w.ownedBy("shop", "host-a")
}

// A held migration outlives its controller, and is told to go on by the next.
func TestAHoldOutlivesTheController(t *testing.T) {
	w := newWorld(t)
	w.site("a")
	w.site("b")
	w.running(specOf("shop", "a"))
	name := w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b", Prepare: true}).GetName()
	ready := func(m *pb.Migration) bool { return m.GetReady() }
	w.follow(name, "ready", ready)
	w.kill()
	w.live()
	w.follow(name, "ready still", ready)
	if _, err := w.as(asOperator).ContinueMigration(w.ctx(), connect.NewRequest(&pb.ContinueMigrationRequest{Name: name})); err != nil {
		t.Fatal(err)
	}
	w.ended(name, migration.Completed)
}

func TestWhatIsOutstandingIsSentAgainWhenAnAgentComesBack(t *testing.T) {
	for _, step := range []string{"server/source/converge", "server/destination/commit", "network/source/quiesce"} {
		t.Run(step, func(t *testing.T) {
			w := newWorld(t)
			w.site("a")
			w.site("b")
			w.running(specOf("shop", "a"))
			agent := w.agentFor(step, "a", "b")
			g := agent.stopAt(step)
			name := w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b"}).GetName()
			g.wait(t)
			w.disconnect(agent)
			close(g.open)
			began := time.Now()
			w.connect(agent)
			w.ended(name, migration.Completed)
			w.ownedBy("shop", "host-b")
			if agent.count(step) < 2 {
				t.Errorf("%s was not sent again", step)
			}
			t.Logf("ended %s after the agent came back", time.Since(began).Round(time.Millisecond))
		})
	}
}

// A newer session replaces one whose end the controller has not noticed.
func TestANewSessionReplacesTheOld(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	w.site("b")
	w.running(specOf("shop", "a"))
	const step = "server/source/converge"
	g := hostA.stopAt(step)
	name := w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b"}).GetName()
	g.wait(t)
	twin := newFakeAgent(t, "host", "a", "host-a")
	t.Cleanup(twin.disconnect)
	twin.connect(w.server.URL)
	w.ended(name, migration.Completed)
	if twin.count(step) != 1 {
		t.Errorf("the new session was sent %v", twin.came())
	}
}

// Two runners of one record: the other one's write makes our compare-and-swap fail, and its state is taken over.
func TestARunnerThatIsOvertakenTakesOverTheNewState(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	w.site("b")
	w.running(specOf("shop", "a"))
	before := w.ownedBy("shop", "host-a")
	g := hostA.stopAt("server/source/converge")
	name := w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b"}).GetName()
	g.wait(t)
	err := update(w.ctx(), w.store, migrationPrefix+name, func(r *migrationRecord) (err error) {
		r.State, _, err = migration.Step(r.State, migration.Abort{At: time.Now(), Reason: "the other runner was told so"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	close(g.open)
	if m := w.ended(name, migration.Aborted); !strings.Contains(m.GetReason(), "the other runner was told so") {
		t.Errorf("reason is %q", m.GetReason())
	}
	if n := hostA.count("server/source/synchronize"); n != 0 {
		t.Error("the runner acted on a state that it could not store")
	}
	if after := w.ownedBy("shop", "host-a"); after != before {
		t.Errorf("owner is %+v, was %+v", after, before)
	}
}

// What dies during a migration is the migration's to deal with.
func TestALossBeforeTheCommitAborts(t *testing.T) {
	w := newWorld(t)
	w.site("a")
	hostB, _ := w.site("b")
	w.running(specOf("shop", "a"))
	m := w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b", Prepare: true})
	w.follow(m.GetName(), "ready", func(m *pb.Migration) bool { return m.GetReady() })
	// Of another epoch: no matter.
	hostB.tell(&pb.Notice{Service: "shop", Epoch: m.GetEpoch() + 7, Participant: "server", Role: "destination", Reason: "of another life"})
	hostB.tell(&pb.Notice{Service: "shop", Epoch: m.GetEpoch(), Participant: "server", Role: "destination", Reason: "the virtual server died"})
	if got := w.ended(m.GetName(), migration.Aborted); !strings.Contains(got.GetReason(), "the virtual server died") {
		t.Errorf("reason is %q", got.GetReason())
	}
}
