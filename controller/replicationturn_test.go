package controller

import (
	"context"
	"errors"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
)

func nothing() error { return nil }

// TestAReplicaThatHasBecomeTheOwnerIsNotGivenUp: it is the only copy, then.
func TestAReplicaThatHasBecomeTheOwnerIsNotGivenUp(t *testing.T) {
	w := newPair(t)
	ending := w.hostA.stopAt(toNothing)
	ended := make(chan error, 1)
	go func() { ended <- w.services.unreplicated(w.ctx(), "shop", nothing) }()
	ending.wait(t)
	if _, err := w.failover(&pb.FailoverRequest{Service: "shop", Force: true}); err != nil {
		t.Fatal(err)
	}
	w.inPhase("shop", serviceRunning)
	close(ending.open)
	refused(t, <-ended, connect.CodeAborted)
	if o, have, err := w.services.withOwner(w.ctx(), "shop"); err != nil || o.owner.Host != "host-b" || have.Host != "host-a" {
		t.Errorf("the owner is %+v, the replica %+v, %v", o.owner, have, err)
	}
	w.nothingIsLeft()
	if w.hostB.count(toNothing) > 0 {
		t.Errorf("the owner was told %q", w.hostB.came())
	}
}

// TestAReplicationIsNotEndedWhileItIsBeingMade: who makes it would go on, and its wishes are newer than those that ended it.
func TestAReplicationIsNotEndedWhileItIsBeingMade(t *testing.T) {
	w := newPair(t)
	making := w.hostB.stopAt(toStandby)
	w.services.reconcile("shop")
	making.wait(t)
	impatient, cancel := context.WithTimeout(w.ctx(), 100*time.Millisecond)
	defer cancel()
	refused(t, w.services.unreplicated(impatient, "shop", nothing), connect.CodeFailedPrecondition, "try again")
	if w.hostA.count(toNothing) > 0 {
		t.Error("the replication was ended while it was being made")
	}
	close(making.open)
	if err := w.services.unreplicated(w.ctx(), "shop", nothing); err != nil {
		t.Fatal(err)
	}
	w.nothingIsLeft()
	for _, a := range []*fakeAgent{w.hostA, w.hostB} {
		if came := a.came(); came[len(came)-1] != toNothing {
			t.Errorf("%s was told %q", a.name, came)
		}
	}
}

func TestAReplicationThatAMigrationCannotEndIsMadeAgain(t *testing.T) {
	w := newPair(t)
	w.beaten(w.hostA)
	w.until("the look after the start to be over", func() bool { return w.hostA.count(toSource) == 2 })
	w.atRest("shop")
	w.hostA.failAt(toNothing, "its disk is full")
	before := w.hostA.count(toSource)
	_, err := w.as(asOperator).Migrate(w.ctx(), connect.NewRequest(&pb.MigrateRequest{Service: "shop", ToSite: "b"}))
	refused(t, err, connect.CodeFailedPrecondition, "its disk is full")
	w.until("the owner to be told again", func() bool { return w.hostA.count(toSource) > before })
}

func TestNothingIsMadeOfAReplicationWhoseServiceIsBeingMigrated(t *testing.T) {
	w := newPair(t)
	converging := w.hostA.stopAt("server/source/converge")
	w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b"})
	converging.wait(t)
	before := len(w.hostA.came())
	if err := w.services.replicate(w.ctx(), "shop"); err != nil {
		t.Error(err)
	}
	if came := w.hostA.came(); len(came) != before {
		t.Errorf("the owner was told %q", came[before:])
	}
	close(converging.open)
}

// TestAFormerOwnerIsNotToldToEndAReplication: it is the replica by now, and would remove itself, with what it kept of its own.
func TestAFormerOwnerIsNotToldToEndAReplication(t *testing.T) {
	w := newPair(t)
	before, have, err := w.services.withOwner(w.ctx(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.failover(&pb.FailoverRequest{Service: "shop", Force: true}); err != nil {
		t.Fatal(err)
	}
	w.inPhase("shop", serviceRunning)
	if err := w.services.endReplication(w.ctx(), before, have, "the test says so"); !errors.Is(err, cluster.ErrConflict) {
		t.Errorf("the replication is ended: %v", err)
	}
	if w.hostA.count(toNothing)+w.hostB.count(toNothing) > 0 {
		t.Errorf("the replica was told %q, the owner %q", w.hostA.came(), w.hostB.came())
	}
}
