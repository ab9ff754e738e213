package controller

import (
	"errors"
	"reflect"
	"testing"
	"time"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
	"github.com/godwit-project/godwit/migration"
)

// storedObjects is all that controllers keep, by key.
func (w *world) storedObjects() map[string]string {
	w.t.Helper()
	all, _, err := w.store.List(w.t.Context(), "/godwit/objects/")
	if err != nil {
		w.t.Fatal(err)
	}
	found := make(map[string]string)
	for _, o := range all {
		found[o.Key] = string(o.Value)
	}
	return found
}

// TestAControllerThatLeadsNoMoreWritesNothing: whatever it decided before, the one that leads may have decided otherwise since.
func TestAControllerThatLeadsNoMoreWritesNothing(t *testing.T) {
	w := newPair(t)
	ctx, s := w.ctx(), w.services
	var record serviceRecord
	if _, err := load(ctx, w.store, servicePrefix+"shop", &record); err != nil {
		t.Fatal(err)
	}
	spec, err := record.spec()
	if err != nil {
		t.Fatal(err)
	}
	left, err := s.leave(ctx, spec, "host-c", "c", endStandby, "the test says so")
	if err != nil {
		t.Fatal(err)
	}
	kept, err := left.op()
	if err == nil {
		_, err = w.store.Txn(ctx, nil, []cluster.Op{kept})
	}
	if err == nil {
		_, err = w.store.Put(ctx, volumePrefix+"alone", []byte(`{"name":"alone","site":"a","host":"host-a","phase":"deleting","epoch":1}`), cluster.Absent)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.hostB.failAt(toStandby, "its disk is full")
	o, _, err := s.withOwner(ctx, "shop")
	if err != nil {
		t.Fatal(err)
	}
	w.depose()
	before := w.storedObjects()
	for what, write := range map[string]func() error{
		"where a replica is":                      func() error { return s.recordReplica(ctx, o, replicaRecord{Site: "b", Host: "another"}) },
		"that a replica is given up":              func() error { return s.leaveReplica(ctx, o, left) },
		"what is wrong with a replication":        func() error { return s.replicate(ctx, "shop") },
		"how volumes are to be replicated":        func() error { return s.changeStorage(ctx, "shop", "a", nil) },
		"a leftover anew":                         func() error { _, err := s.renew(ctx, left); return err },
		"that a service has to be started again":  func() error { return s.restart(ctx, "shop", "it was found dead") },
		"that nothing of a service is there":      func() error { return s.remove(ctx, spec, record) },
		"that a volume is gone":                   func() error { return s.volumes.settle(ctx, "alone") },
		"that an agent is there":                  func() error { return s.agents.remember(ctx, &session{record: agentRecord{Name: "host-a"}}) },
		"the decision of a failover, or a change": func() error { return w.migrations.decide(ctx, "shop", nil, []cluster.Op{kept}) },
		"the claim of a migration": func() error {
			_, err := w.migrations.claim(ctx, &migrationRecord{State: migration.State{Spec: migration.Spec{Service: "shop"}}}, nil)
			return err
		},
		"the state of a migration": func() error {
			r := &runner{m: w.migrations, name: "shop-9"}
			return r.persist(ctx, migration.State{}, migration.State{Spec: migration.Spec{Service: "shop"}})
		},
		"a service": func() error {
			return s.create(ctx, specOf("other", "a"), agentState{agentRecord: agentRecord{Site: "a", Name: "host-a"}}, agentState{}, attachment{})
		},
		"an epoch that is given out": func() error { _, err := s.store.NextEpoch(ctx); return err },
	} {
		if err := write(); !errors.Is(err, errDeposed) {
			t.Errorf("it writes down %s: %v", what, err)
		}
	}
	if err := s.finish(ctx, left); err == nil {
		t.Error("what host-c has left was done, without host-c")
	}
	if after := w.storedObjects(); !reflect.DeepEqual(before, after) {
		t.Errorf("the store has changed, from\n%v to\n%v", before, after)
	}
	if err := s.stillOwned(ctx, o); err != nil {
		t.Error(err)
	}
}

// TestAControllerThatLeadsNoMoreRemovesNothing: a service may be there again by that name, which the one that leads has made since. Under a
// fresh epoch its host would obey.
func TestAControllerThatLeadsNoMoreRemovesNothing(t *testing.T) {
	w := newPair(t)
	w.depose()
	o, have, err := w.services.withOwner(w.ctx(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.services.remove(w.ctx(), o.spec, serviceRecord{Phase: serviceDeleting}); !errors.Is(err, errDeposed) {
		t.Errorf("it removes a service: %v", err)
	}
	if err := w.services.endReplication(w.ctx(), o, have, "the test says so"); !errors.Is(err, errDeposed) {
		t.Errorf("it ends a replication: %v", err)
	}
	for _, a := range w.agents {
		if a.count("stop")+a.count(toNothing) > 0 {
			t.Errorf("%s was told %q", a.name, a.came())
		}
	}
}

// TestAMigrationOfAControllerThatLeadsNoMoreStandsStill: it does not take the successor's lead for a state that it could take over.
func TestAMigrationOfAControllerThatLeadsNoMoreStandsStill(t *testing.T) {
	w := newPair(t)
	converging := w.hostA.stopAt("server/source/converge")
	name := w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b"}).GetName()
	converging.wait(t)
	w.depose()
	_, err := w.migrations.tell(w.ctx(), name, migration.Abort{At: time.Now(), Reason: "the operator says so"})
	if err == nil {
		t.Error("it was aborted by who does not lead")
	}
	w.kill()
	close(converging.open)
	w.live()
	w.ended(name, migration.Completed)
}
