package controller

import (
	"context"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
	"github.com/godwit-project/godwit/migration"
)

func TestAServiceCanBeDeletedAfterAnAbortedMigration(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	w.site("b")
	w.running(specOf("shop", "a"))
	hostA.failAt("server/source/converge", "no")
	w.ended(w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b"}).GetName(), migration.Aborted)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	if _, err := w.as(asOperator).Delete(ctx, connect.NewRequest(&pb.DeleteRequest{Kind: "service", Name: "shop"})); err != nil {
		t.Fatal(err)
	}
}

func TestTheTakingOverIsNoted(t *testing.T) {
	w, name, g := moving(t)
	w.kill()
	close(g.open)
	w.live()
	m := w.ended(name, migration.Completed)
	if notes := strings.Join(m.GetNotes(), "\n"); !strings.Contains(notes, "a new controller took over in phase converging") {
		t.Errorf("notes are %q", notes)
	}
}

func TestAMigrationGivesUpWhenANewerEpochHasTheService(t *testing.T) {
	w, name, g := moving(t)
	epoch, err := w.store.NextEpoch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	next, err := cluster.Owner{Service: "shop", Site: "c", Host: "host-c", Epoch: epoch}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.store.Put(t.Context(), cluster.OwnerKey("shop"), next, cluster.Any); err != nil {
		t.Fatal(err)
	}
	close(g.open)
	m := w.ended(name, migration.Aborted)
	if !strings.Contains(m.GetReason(), "has taken the service") {
		t.Errorf("reason is %q", m.GetReason())
	}
	w.ownedBy("shop", "host-c")
}

// A deletion that comes between the look and the claim is not overlooked, nor the other way round.
func TestAServiceThatIsBeingDeletedIsNotClaimed(t *testing.T) {
	w := newWorld(t)
	w.site("a")
	w.site("b")
	w.running(specOf("shop", "a"))
	ctx := w.ctx()
	rec, rev, err := w.migrations.plan(ctx, &pb.MigrateRequest{Service: "shop", ToSite: "b"})
	if err != nil {
		t.Fatal(err)
	}
	err = update(ctx, w.store, servicePrefix+"shop", func(r *serviceRecord) error { r.Phase = serviceDeleting; return nil })
	if err != nil {
		t.Fatal(err)
	}
	if name, err := w.migrations.claim(ctx, &rec, rev); err == nil {
		t.Errorf("%s moves a service that is being deleted", name)
	}
}

func TestAServiceThatHasJustArrivedIsNotStartedAgain(t *testing.T) {
	w := newWorld(t)
	w.site("a")
	hostB, _ := w.site("b")
	w.running(specOf("shop", "a"))
	hostB.lazy = true
	w.ended(w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b"}).GetName(), migration.Completed)
	w.kill() // waits for whatever is going on
	if hostB.count("start") != 0 {
		t.Error("it was started again, because the heartbeat was older than the migration")
	}
}

// The loss of an answer may be heard of after the agent has come back.
func TestAStepWhoseAnswerWasLostIsSentAgainAtOnce(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	w.site("b")
	w.running(specOf("shop", "a"))
	const step = "server/source/converge"
	g := hostA.stopAt(step)
	name := w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b"}).GetName()
	g.wait(t)
	r := w.migrations.runner(name)
	began := time.Now()
	if err := r.post(t.Context(), message{step: step, lost: true}); err != nil {
		t.Fatal(err)
	}
	w.until("it was sent again", func() bool { return hostA.count(step) > 1 })
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("sent again only after %s", d)
	}
	close(g.open)
	w.ended(name, migration.Completed)
}

func TestTellingAMigrationThatEndsAtThatMomentReturns(t *testing.T) {
	w := newWorld(t)
	w.site("a")
	w.site("b")
	w.running(specOf("shop", "a"))
	m := w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b", Prepare: true})
	w.follow(m.GetName(), "ready", func(m *pb.Migration) bool { return m.GetReady() })
	r := w.migrations.runner(m.GetName())
	if _, err := w.migrations.tell(w.ctx(), m.GetName(), migration.Continue{At: time.Now()}); err != nil {
		t.Fatal(err)
	}
	w.ended(m.GetName(), migration.Completed)
	w.migrations.mu.Lock()
	w.migrations.mu.runners[m.GetName()] = r // found just before it ended
	w.migrations.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err := w.migrations.tell(ctx, m.GetName(), migration.Abort{At: time.Now()})
	refused(t, err, connect.CodeFailedPrecondition)
	w.migrations.mu.Lock()
	delete(w.migrations.mu.runners, m.GetName())
	w.migrations.mu.Unlock()
}
