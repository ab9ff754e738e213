package controller

import (
	"context"
	"log/slog"
	"sync"
	"testing"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/migration"
)

// TestAnAgentWithoutASessionTellsNothingOfItsServers: what it told before is forgotten, and says not that they are dead.
func TestAnAgentWithoutASessionTellsNothingOfItsServers(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	w.running(specOf("shop", "a"))
	w.atRest("shop")
	w.disconnect(hostA)
	if err := w.services.lookAt(w.ctx(), "host-a"); err != nil {
		t.Fatal(err)
	}
	var r serviceRecord
	if _, err := load(w.ctx(), w.store, servicePrefix+"shop", &r); err != nil || r.Phase != serviceRunning {
		t.Errorf("the service is %s: %s, %v", r.Phase, r.Message, err)
	}
}

// TestAServiceIsGoneOnWithWhenTheEdgeOfItsSiteIsBack: nobody waits for that any more.
func TestAServiceIsGoneOnWithWhenTheEdgeOfItsSiteIsBack(t *testing.T) {
	w := newWorld(t)
	_, edgeA := w.site("a")
	edgeA.failAt("start", "its routes are not there")
	if outcome := w.applied(specOf("shop", "a")); outcome != "created" {
		t.Fatal(outcome)
	}
	w.inPhase("shop", serviceFailed)
	w.atRest("shop")
	edgeA.failAt("start", "")
	w.disconnect(edgeA)
	w.connect(edgeA)
	w.inPhase("shop", serviceRunning)
}

// TestNoticesAreHeardWhileAMigrationIsTakenOver is for the race detector: both look at whose migration it is.
func TestNoticesAreHeardWhileAMigrationIsTakenOver(t *testing.T) {
	w, name, g := moving(t)
	watch := &watchman{agents: w.sessions, services: w.services, migrations: w.migrations, logger: slog.New(slog.DiscardHandler)}
	var noticing sync.WaitGroup
	noticing.Go(func() {
		for n := 0; n < 1000 && w.migrations.runner(name) != nil; n++ {
			watch.noticed("host-a", &pb.Notice{Service: "shop", Epoch: 99, Participant: "server", Role: "source"})
		}
	})
	err := update(w.ctx(), w.store, migrationPrefix+name, func(r *migrationRecord) error { r.Notes = append(r.Notes, "behind its back"); return nil })
	if err != nil {
		t.Fatal(err)
	}
	close(g.open) // what it stores next is a conflict
	w.ended(name, migration.Completed)
	noticing.Wait()
}

func TestNobodyWaitsForARunnerThatHasEnded(t *testing.T) {
	r := &runner{inbox: make(chan message), ended: make(chan struct{})}
	close(r.ended)
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	if err := r.post(ctx, message{}); err != nil {
		t.Error(err)
	}
}
