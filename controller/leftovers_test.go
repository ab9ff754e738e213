package controller

import (
	"slices"
	"testing"

	"connectrpc.com/connect"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/migration"
)

const (
	toStandby = "replicate REPLICA_ROLE_STANDBY"
	toSource  = "replicate REPLICA_ROLE_SOURCE"
	toNothing = "replicate REPLICA_ROLE_UNSPECIFIED"
)

// replicated starts a service at a whose replica is at the site.
func (w *world) replicated(site string) *pb.ServiceSpec {
	w.t.Helper()
	spec := specOf("shop", "a")
	spec.Storage = &pb.StorageSpec{ReplicateTo: site, Mode: "sync"}
	w.running(spec)
	host := w.agents[0]
	w.until("the replication", func() bool { return host.count(toSource) > 0 })
	return spec
}

func (w *world) volumesOf(host string) []*pb.Volume {
	w.t.Helper()
	res, err := w.as(asViewer).Get(w.ctx(), connect.NewRequest(&pb.GetRequest{Kind: "volume"}))
	if err != nil {
		w.t.Fatal(err)
	}
	var out []*pb.Volume
	for _, o := range res.Msg.GetObjects() {
		if o.GetVolume().GetHost() == host {
			out = append(out, o.GetVolume())
		}
	}
	return out
}

func (w *world) nothingIsLeft() {
	w.t.Helper()
	w.until("nothing to be left", func() bool {
		left, err := w.services.leftovers(w.t.Context(), "")
		return err == nil && len(left) == 0
	})
}

func TestAServiceIsDeletedWhileItsReplicaIsOutOfReachAndThatIsRemovedLater(t *testing.T) {
	w := newWorld(t)
	w.site("a")
	hostB, _ := w.site("b")
	w.replicated("b")
	w.disconnect(hostB)
	if _, err := w.as(asOperator).Delete(w.ctx(), connect.NewRequest(&pb.DeleteRequest{Kind: "service", Name: "shop"})); err != nil {
		t.Fatal(err)
	}
	if left := w.volumesOf("host-b"); len(left) != 1 || left[0].GetRole() != roleLeftover || left[0].GetName() != "shop.root" {
		t.Errorf("what is left is shown as %v", left)
	}
	w.kill()
	w.agents = slices.DeleteFunc(w.agents, func(a *fakeAgent) bool { return a == hostB })
	w.live()
	if hostB.count("stop") != 0 {
		t.Fatal("an agent that is not there was told to stop")
	}
	w.connect(hostB)
	w.until("the replica to be removed", func() bool { return hostB.count("stop") == 1 })
	w.nothingIsLeft()
	w.disconnect(hostB)
	w.connect(hostB)
	w.running(specOf("shop", "b"))
	if hostB.count("stop") != 1 {
		t.Error("it was removed once more")
	}
}

func TestAServiceMovesWhileItsReplicaAtAThirdSiteIsOutOfReach(t *testing.T) {
	w := newWorld(t)
	w.site("a")
	hostB, _ := w.site("b")
	hostC, _ := w.site("c")
	w.replicated("c")
	w.disconnect(hostC)
	w.ended(w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b"}).GetName(), migration.Completed)
	w.connect(hostC)
	w.until("the replica to be made anew", func() bool { return hostC.count(toStandby) > 1 && hostB.count(toSource) > 0 })
	came := hostC.came()
	if end := slices.Index(came, toNothing); end < 0 || end > len(came)-2 {
		t.Errorf("the replica was told %q: want it removed before it is made anew", came)
	}
	w.nothingIsLeft()
}

func TestTheModeIsChangedWhileTheReplicaIsOutOfReach(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	hostB, _ := w.site("b")
	spec := w.replicated("b")
	w.disconnect(hostB)
	before := hostA.count(toSource)
	spec.Storage.Mode = "async"
	w.running(spec)
	w.until("the primary to be told", func() bool { return hostA.count(toSource) > before })
	spec.Storage = nil
	w.running(spec)
	w.until("the primary to be told", func() bool { return hostA.count(toNothing) == 1 })
	w.connect(hostB)
	w.until("the replica to be removed", func() bool { return hostB.count(toNothing) == 1 })
	w.nothingIsLeft()
}

// An agent that has seen something newer has nothing left to do.
func TestWhatAnAgentRefusesIsForgotten(t *testing.T) {
	w := newWorld(t)
	w.site("a")
	hostB, _ := w.site("b")
	w.replicated("b")
	w.disconnect(hostB)
	if _, err := w.as(asOperator).Delete(w.ctx(), connect.NewRequest(&pb.DeleteRequest{Kind: "service", Name: "shop"})); err != nil {
		t.Fatal(err)
	}
	hostB.refuseAt("stop", "stop of shop refused: it runs here under epoch 99")
	w.connect(hostB)
	w.nothingIsLeft()
}
