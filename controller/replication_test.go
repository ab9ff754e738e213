package controller

import (
	"slices"
	"testing"

	"connectrpc.com/connect"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/migration"
)

// A service that is replicated: both ends are told, a move turns it round, and a deletion reaches both.
func TestAStandingReplicationIsMadeTurnedRoundByAMoveAndRemoved(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	hostB, _ := w.site("b")
	spec := specOf("shop", "a")
	spec.Storage = &pb.StorageSpec{ReplicateTo: "b", Mode: "flush"}
	w.running(spec)
	w.until("both ends to be told", func() bool {
		return hostB.count("replicate REPLICA_ROLE_STANDBY") == 1 && hostA.count("replicate REPLICA_ROLE_SOURCE") == 1
	})
	w.ended(w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b"}).GetName(), migration.Completed)
	w.until("the replication to be turned round", func() bool {
		return hostA.count("replicate REPLICA_ROLE_STANDBY") > 0 && hostB.count("replicate REPLICA_ROLE_SOURCE") > 0
	})
	if hostA.count("replicate REPLICA_ROLE_UNSPECIFIED") == 0 || hostB.count("replicate REPLICA_ROLE_UNSPECIFIED") == 0 {
		t.Error("the replication was not ended before the move")
	}
	if _, err := w.as(asOperator).Delete(w.ctx(), connect.NewRequest(&pb.DeleteRequest{Kind: "service", Name: "shop"})); err != nil {
		t.Fatal(err)
	}
	if hostA.count("stop") != 1 || hostB.count("stop") != 1 {
		t.Errorf("stopped %d times at the replica, %d at the owner", hostA.count("stop"), hostB.count("stop"))
	}
}

// A service that was moved is told to keep its replica where it was started: when it is back there, its replica is at the other site again,
// and not where it is itself.
func TestAReplicaIsNeverWhereItsServiceIsAlsoWhenItIsAskedForWhereThatBegan(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	hostB, _ := w.site("b")
	w.replicated("b")
	w.ended(w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b"}).GetName(), migration.Completed)
	w.until("the replication to be turned round", func() bool { return hostA.count(toStandby) == 1 && hostB.count(toSource) > 0 })

	spec := specOf("shop", "b")
	spec.Storage = &pb.StorageSpec{ReplicateTo: "a", Mode: "flush"}
	if res, err := w.as(asOperator).Apply(w.ctx(), connect.NewRequest(&pb.ApplyRequest{Service: spec})); err != nil || res.Msg.GetOutcome() != "configured" {
		t.Fatalf("%v, %v", res, err)
	}
	w.until("the new mode to be told", func() bool { return hostA.count(toStandby) > 1 })
	before := hostB.count(toStandby)
	w.ended(w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "a"}).GetName(), migration.Completed)
	w.until("the replica to be at the other site", func() bool { return hostB.count(toStandby) > before })
	came := hostA.came()
	if arrived := slices.Index(came, "storage/destination/commit"); arrived < 0 || slices.Contains(came[arrived:], toStandby) {
		t.Errorf("the replica was to be where the service is: %q", came)
	}
}

func TestAReplicationThatMakesNoSenseIsRefused(t *testing.T) {
	for text, s := range map[string]*pb.StorageSpec{
		"where the service itself is": {ReplicateTo: "a"},
		"want async, flush or sync":   {ReplicateTo: "b", Mode: "fast"},
		"is no name of a site":        {ReplicateTo: "B!"},
	} {
		spec := specOf("shop", "a")
		spec.Storage = s
		refused(t, checkStorage(spec), connect.CodeInvalidArgument, text)
	}
}
