package controller

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
	"github.com/godwit-project/godwit/migration"
)

// history collects every change of the store from now on, until the end of a migration is in it.
func (w *world) history(ctx context.Context) func(name string) []cluster.Change {
	_, rev, err := w.store.List(ctx, "/godwit/")
	if err != nil {
		w.t.Fatal(err)
	}
	changes := w.store.Watch(ctx, "/godwit/", rev)
	return func(name string) []cluster.Change {
		var all []cluster.Change
		for c := range changes {
			all = append(all, c)
			var r migrationRecord
			if c.Key == migrationPrefix+name && json.Unmarshal(c.Value, &r) == nil && r.State.Terminal() {
				return all
			}
		}
		w.t.Fatal("the migration's end was never stored")
		return nil
	}
}

func TestAMigrationMovesTheServiceAndItsOwnerInTheTransactionOfTheCommit(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	hostB, edgeB := w.site("b")
	w.running(specOf("shop", "a"))
	before := w.ownedBy("shop", "host-a")
	stopped := time.Now()
	hostA.measure("server/source/prepare", &pb.StepFigures{ClockOffsetNs: int64(5 * time.Second), ClockUncertaintyNs: int64(time.Millisecond)})
	hostA.measure("server/source/quiesce", &pb.StepFigures{StoppedAt: timestamppb.New(stopped)})
	hostA.measure("storage/source/release", &pb.StepFigures{WanBytes: 4711})
	hostB.measure("server/destination/commit", &pb.StepFigures{ResumedAt: timestamppb.New(stopped.Add(5*time.Second + 40*time.Millisecond))})

	ctx := w.ctx()
	changes := w.history(ctx)
	m := w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b"})
	got := w.ended(m.GetName(), migration.Completed)

	var commit, owner, betweenStopAndStart int64
	for _, c := range changes(m.GetName()) {
		var r migrationRecord
		switch {
		case c.Key == cluster.OwnerKey("shop"):
			if owner != 0 {
				t.Error("the owner was written more than once")
			}
			owner = c.Revision
		case c.Key == migrationPrefix+m.GetName() && json.Unmarshal(c.Value, &r) == nil:
			if r.State.Decision == migration.DecisionCommit && commit == 0 {
				commit = c.Revision
			}
			quiesced := !r.State.Steps["server/source/quiesce"].Done.IsZero()
			if resumed := !r.State.Steps["server/destination/commit"].Done.IsZero(); quiesced && !resumed {
				betweenStopAndStart++
			}
		}
	}
	if commit == 0 || commit != owner {
		t.Errorf("the commit was stored at revision %d, the owner at %d: want one transaction", commit, owner)
	}
	if betweenStopAndStart != 1 {
		t.Errorf("%d writes between the source's stop and the destination's start, want the commit alone", betweenStopAndStart)
	}
	if after := w.ownedBy("shop", "host-b"); after.Epoch != got.GetEpoch() || after.Epoch <= before.Epoch || after.Site != "b" {
		t.Errorf("owner is %+v after %+v, the attempt has epoch %d", after, before, got.GetEpoch())
	}
	if f := got.GetFigures(); f.GetBlackoutMs() != 40 || f.GetBlackoutUncertaintyMs() != 1 || f.GetWanBytes() != 4711 {
		t.Errorf("figures are %v: want a blackout of 40 ms once the clocks' offset is out, known to 1 ms", f)
	}
	announce, tunnel := slices.Index(edgeB.came(), "network/destination/optimize"), slices.Index(edgeB.came(), "network/destination/release")
	if announce < 0 || tunnel < announce {
		t.Errorf("the destination's edge was asked for %v: want the announcement before the end of the tunnel", edgeB.came())
	}
	// Back again, so that nothing of the first attempt is in the way.
	w.ended(w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "a"}).GetName(), migration.Completed)
	w.ownedBy("shop", "host-a")
}

func TestAFailedStepBeforeTheCommitPutsEverythingBackAndIsNamed(t *testing.T) {
	w := newWorld(t)
	hostA, edgeA := w.site("a")
	hostB, _ := w.site("b")
	w.running(specOf("shop", "a"))
	before := w.ownedBy("shop", "host-a")
	hostB.failAt("server/destination/quiesce", "device state of virtio-blk could not be loaded")
	m := w.ended(w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b"}).GetName(), migration.Aborted)
	for _, text := range []string{"server/destination/quiesce", "device state of virtio-blk could not be loaded"} {
		if !strings.Contains(m.GetReason(), text) {
			t.Errorf("the reason is %q, want it to say %q", m.GetReason(), text)
		}
	}
	if after := w.ownedBy("shop", "host-a"); after != before {
		t.Errorf("owner is %+v, was %+v", after, before)
	}
	for _, want := range []struct {
		agent *fakeAgent
		step  string
	}{{hostA, "storage/source/abort"}, {hostA, "server/source/abort"}, {edgeA, "network/source/abort"}, {hostB, "server/destination/abort"}, {hostB, "storage/destination/abort"}} {
		if want.agent.count(want.step) == 0 {
			t.Errorf("%s was not asked for %s", want.agent.name, want.step)
		}
	}
	if n := hostB.count("server/destination/commit"); n != 0 {
		t.Error("the destination was told to commit")
	}
	hostB.failAt("server/destination/quiesce", "")
	w.ended(w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b"}).GetName(), migration.Completed)
}

func TestAFailedStepAfterTheCommitIsTriedAgainAndNoted(t *testing.T) {
	w := newWorld(t)
	w.site("a")
	hostB, _ := w.site("b")
	w.running(specOf("shop", "a"))
	const step = "server/destination/commit"
	hostB.failAt(step, "qemu does not answer")
	name := w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b"}).GetName()
	w.until("the step has been tried twice", func() bool { return hostB.count(step) >= 2 })
	_, err := w.as(asOperator).AbortMigration(w.ctx(), connect.NewRequest(&pb.AbortMigrationRequest{Name: name}))
	refused(t, err, connect.CodeFailedPrecondition, "already committed", "migrate it to a")
	hostB.failAt(step, "")
	m := w.ended(name, migration.Completed)
	if notes := strings.Join(m.GetNotes(), "\n"); !strings.Contains(notes, step+" failed in phase committed and is tried again: qemu does not answer") {
		t.Errorf("notes are %q", notes)
	}
}

func TestAServiceIsMigratedOnceAtATime(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	w.site("b")
	w.site("c")
	w.running(specOf("shop", "a"))
	g := hostA.stopAt("server/source/converge")
	first := w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b"})
	g.wait(t)
	for _, site := range []string{"b", "c"} {
		_, err := w.as(asOperator).Migrate(w.ctx(), connect.NewRequest(&pb.MigrateRequest{Service: "shop", ToSite: site}))
		refused(t, err, connect.CodeFailedPrecondition, "is being migrated already", first.GetName(), "hint: wait for it")
	}
	_, err := w.as(asOperator).Delete(w.ctx(), connect.NewRequest(&pb.DeleteRequest{Kind: "service", Name: "shop"}))
	refused(t, err, connect.CodeFailedPrecondition, "is being migrated", "hint:")
	close(g.open)
	w.ended(first.GetName(), migration.Completed)
}

// Two that have both been found possible meet at the claim: one wins.
func TestOfTwoClaimsOnOneServiceOneWins(t *testing.T) {
	w := newWorld(t)
	w.site("a")
	w.site("b")
	w.running(specOf("shop", "a"))
	ctx := w.ctx()
	req := &pb.MigrateRequest{Service: "shop", ToSite: "b", Prepare: true}
	one, rev, err := w.migrations.plan(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	other := one
	name, err := w.migrations.claim(ctx, &one, rev)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.migrations.claim(ctx, &other, rev)
	refused(t, err, connect.CodeFailedPrecondition, "is being migrated already, by "+name)
}

func TestADryRunStoresNothing(t *testing.T) {
	w := newWorld(t)
	w.site("a")
	w.site("b")
	w.running(specOf("shop", "a"))
	m := w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b", DryRun: true})
	if m.GetSourceHost() != "host-a" || m.GetDestinationHost() != "host-b" || m.GetEpoch() != 0 {
		t.Errorf("the plan is %v", m)
	}
	if left, _, err := w.store.List(t.Context(), migrationPrefix); err != nil || len(left) != 0 {
		t.Errorf("stored: %v, %v", left, err)
	}
}

func TestAHeldMigrationWaitsUntilItIsToldOrItsTimeHasCome(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	w.site("b")
	w.running(specOf("shop", "a"))
	ready := func(m *pb.Migration) bool { return m.GetReady() && m.GetHold() }
	operator := w.as(asOperator)

	t.Run("abort", func(t *testing.T) {
		name := w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b", Prepare: true}).GetName()
		w.follow(name, "ready", ready)
		if _, err := operator.AbortMigration(w.ctx(), connect.NewRequest(&pb.AbortMigrationRequest{Name: name, Reason: "not tonight"})); err != nil {
			t.Fatal(err)
		}
		if m := w.ended(name, migration.Aborted); !strings.Contains(m.GetReason(), "not tonight") {
			t.Errorf("reason is %q", m.GetReason())
		}
		_, err := operator.ContinueMigration(w.ctx(), connect.NewRequest(&pb.ContinueMigrationRequest{Name: name}))
		refused(t, err, connect.CodeFailedPrecondition)
	})
	t.Run("continue", func(t *testing.T) {
		name := w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b", Prepare: true}).GetName()
		w.follow(name, "ready", ready)
		if hostA.count("storage/source/synchronize") != 0 {
			t.Error("storage turned synchronous during the hold")
		}
		if _, err := operator.ContinueMigration(w.ctx(), connect.NewRequest(&pb.ContinueMigrationRequest{Name: name})); err != nil {
			t.Fatal(err)
		}
		w.ended(name, migration.Completed)
		w.ownedBy("shop", "host-b")
	})
	t.Run("its time", func(t *testing.T) {
		at := time.Now().Add(700 * time.Millisecond)
		name := w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "a", At: timestamppb.New(at)}).GetName()
		w.ended(name, migration.Completed)
		var rec migrationRecord
		if _, err := load(t.Context(), w.store, migrationPrefix+name, &rec); err != nil {
			t.Fatal(err)
		}
		if went, ok := rec.State.Entered(migration.Synchronizing); !ok || went.Before(at) {
			t.Errorf("it went on at %s, its time was %s", went, at)
		}
	})
	t.Run("nothing held", func(t *testing.T) {
		g := hostA.stopAt("server/destination/prepare")
		name := w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b"}).GetName()
		_, err := operator.ContinueMigration(w.ctx(), connect.NewRequest(&pb.ContinueMigrationRequest{Name: name}))
		refused(t, err, connect.CodeFailedPrecondition)
		close(g.open)
		w.ended(name, migration.Completed)
	})
	t.Run("unknown", func(t *testing.T) {
		_, err := operator.ContinueMigration(w.ctx(), connect.NewRequest(&pb.ContinueMigrationRequest{Name: "none-1"}))
		refused(t, err, connect.CodeNotFound, "hint: godwit get migrations")
	})
}
