package controller

import (
	"fmt"
	"slices"
	"testing"

	"connectrpc.com/connect"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
	"github.com/godwit-project/godwit/controller/failover"
	"github.com/godwit-project/godwit/migration"
)

func (w *world) failover(req *pb.FailoverRequest) (*pb.Failover, error) {
	res, err := w.as(asOperator).Failover(w.ctx(), connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	return res.Msg.GetFailover(), nil
}

// pair is a world of two sites, where the service shop is at a and has a complete replica at b.
type pair struct {
	*world
	hostA, edgeA, hostB, edgeB *fakeAgent
}

func newPair(t *testing.T) pair {
	t.Helper()
	w := pair{world: newWorld(t)}
	w.hostA, w.edgeA = w.site("a")
	w.hostB, w.edgeB = w.site("b")
	w.replicated("b")
	w.hostB.keeps("shop", true)
	w.beaten(w.hostB)
	return w
}

// lose takes site a away.
func (w pair) lose() {
	w.t.Helper()
	w.disconnect(w.hostA)
	w.disconnect(w.edgeA)
}

// beaten waits until what an agent says now is known.
func (w *world) beaten(a *fakeAgent) {
	w.t.Helper()
	a.mu.Lock()
	s := a.session
	a.mu.Unlock()
	for range 2 {
		s.out <- a.heartbeat()
		if !w.sessions.awaitBeat(w.ctx(), a.name) {
			w.t.Fatal("no heartbeat of", a.name)
		}
	}
}

func TestAServiceWhoseSiteIsLostIsFailedOverAndItsOldSiteFollowsIt(t *testing.T) {
	w := newPair(t)
	before := w.ownedBy("shop", "host-a")
	w.lose()

	f, err := w.failover(&pb.FailoverRequest{Service: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	if f.GetToSite() != "b" || f.GetPoint() != 7 || f.GetForced() || f.GetEpoch() <= before.Epoch {
		t.Errorf("it was failed over as %v", f)
	}
	w.inPhase("shop", serviceRunning)
	if after := w.ownedBy("shop", "host-b"); after.Epoch != f.GetEpoch() {
		t.Errorf("the owner's epoch is %d", after.Epoch)
	}
	if w.hostB.count("promote") != 1 || w.edgeB.count("start") != 1 {
		t.Errorf("the host of the replica was told %q, its edge %q", w.hostB.came(), w.edgeB.came())
	}
	if left := w.volumesOf("host-a"); len(left) != 1 || left[0].GetRole() != roleLeftover {
		t.Errorf("the old owner's volumes are shown as %v", left)
	}
	w.kill()
	w.agents = []*fakeAgent{w.hostB, w.edgeB}
	w.live()

	w.connect(w.edgeA)
	w.until("the old edge to forget the way", func() bool { return w.edgeA.count("stop") == 1 })
	demotions := w.hostA.count(toStandby)
	w.connect(w.hostA)
	w.until("the old owner to be the replica", func() bool { return w.hostA.count(toStandby) > demotions && w.hostB.count(toSource) > 0 })
	w.nothingIsLeft()
	if w.hostB.count("promote") != 1 {
		t.Error("it was promoted again")
	}
	w.until("the trouble to be over", func() bool {
		var r serviceRecord
		_, err := load(t.Context(), w.store, servicePrefix+"shop", &r)
		return err == nil && r.Replica.Error == ""
	})
	// And home again, as planned.
	w.ended(w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "a"}).GetName(), migration.Completed)
	w.ownedBy("shop", "host-a")
}

func TestAFailoverIsRefusedWhereItWouldDoHarm(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	hostB, _ := w.site("b")
	w.running(specOf("bare", "a"))
	w.replicated("b")
	w.beaten(hostB)
	_, err := w.failover(&pb.FailoverRequest{Service: "nobody"})
	refused(t, err, connect.CodeNotFound, "nobody")
	_, err = w.failover(&pb.FailoverRequest{Service: "bare"})
	refused(t, err, connect.CodeFailedPrecondition, "has no replica")
	_, err = w.failover(&pb.FailoverRequest{Service: "shop"})
	refused(t, err, connect.CodeFailedPrecondition, "host-a answers", "godwit migrate shop --to b")
	w.disconnect(hostA)
	_, err = w.failover(&pb.FailoverRequest{Service: "shop", ToSite: "c"})
	refused(t, err, connect.CodeFailedPrecondition, "at site b, not at c")
	_, err = w.failover(&pb.FailoverRequest{Service: "shop"})
	refused(t, err, connect.CodeFailedPrecondition, "has no replica of volume root")
	hostB.keeps("shop", false)
	w.beaten(hostB)
	_, err = w.failover(&pb.FailoverRequest{Service: "shop", ToSite: "b"})
	refused(t, err, connect.CodeFailedPrecondition, "incomplete")
	w.disconnect(hostB)
	_, err = w.failover(&pb.FailoverRequest{Service: "shop"})
	refused(t, err, connect.CodeUnavailable, "host-b went away a moment ago", "try again")
	w.sessions.rejoin = 0
	_, err = w.failover(&pb.FailoverRequest{Service: "shop"})
	refused(t, err, connect.CodeFailedPrecondition, "host-b is down")
	w.ownedBy("shop", "host-a")
}

// TestAFailoverThatIsAskedForAgainIsDecidedOnce has the controller die after the decision, before its answer arrives.
func TestAFailoverThatIsAskedForAgainIsDecidedOnce(t *testing.T) {
	w := newPair(t)
	w.lose()
	first, err := w.failover(&pb.FailoverRequest{Service: "shop", Request: "one"})
	if err != nil {
		t.Fatal(err)
	}
	w.kill()
	w.agents = []*fakeAgent{w.hostB, w.edgeB}
	w.live()
	again, err := w.failover(&pb.FailoverRequest{Service: "shop", Request: "one"})
	if err != nil || again.GetEpoch() != first.GetEpoch() || again.GetToSite() != "b" {
		t.Errorf("asked again: %v, %v, after %v", again, err, first)
	}
	w.inPhase("shop", serviceRunning)
	if _, err := w.failover(&pb.FailoverRequest{Service: "shop", Request: "another"}); err == nil {
		t.Error("another wish was taken for the one that was decided")
	}
	if owner := w.ownedBy("shop", "host-b"); owner.Epoch != first.GetEpoch() {
		t.Errorf("owned by %+v", owner)
	}
}

// TestAControllerThatHasJustBegunDecidesNoFailover: an agent that has not come back yet is not one that is dead.
func TestAControllerThatHasJustBegunDecidesNoFailover(t *testing.T) {
	w := newPair(t)
	w.kill()
	w.agents = []*fakeAgent{w.edgeA, w.hostB, w.edgeB} // all live, and one is late
	w.live()
	_, err := w.failover(&pb.FailoverRequest{Service: "shop"})
	refused(t, err, connect.CodeUnavailable, "does not know yet whether the agent of host-a is there", "try again")
	w.connect(w.hostA)
	_, err = w.failover(&pb.FailoverRequest{Service: "shop"})
	refused(t, err, connect.CodeFailedPrecondition, "host-a answers")
	w.disconnect(w.hostA)
	w.beaten(w.hostB)
	if _, err = w.failover(&pb.FailoverRequest{Service: "shop"}); err != nil {
		t.Errorf("it was there in this life, and is gone: %v", err)
	}
	w.inPhase("shop", serviceRunning)
}

func TestAServiceGoesBackToASnapshotOnlyIfThereIsOne(t *testing.T) {
	w := newPair(t)
	_, err := w.failover(&pb.FailoverRequest{Service: "shop", Snapshot: "never"})
	refused(t, err, connect.CodeNotFound, "never")
	demoted := w.hostA.count(toStandby)
	f, err := w.failover(&pb.FailoverRequest{Service: "shop", Snapshot: "before"})
	if err != nil || f.GetPoint() != 3 || f.GetSnapshot() != "before" {
		t.Fatalf("%v, %v", f, err)
	}
	w.inPhase("shop", serviceRunning)
	if w.hostB.count("promote before") != 1 || w.hostA.count(toStandby) == demoted {
		t.Errorf("the replica was told %q, the old owner %q", w.hostB.came(), w.hostA.came())
	}
}

// Forced, the old owner is stopped before the new one is started.
func TestAForcedFailoverStopsTheOldOwnerFirst(t *testing.T) {
	w := newPair(t)
	started := w.hostB.stopAt("promote")
	demoted := w.hostA.count(toStandby)
	if _, err := w.failover(&pb.FailoverRequest{Service: "shop", ToSite: "b", Force: true}); err != nil {
		t.Fatal(err)
	}
	started.wait(t)
	if w.hostA.count(toStandby) != demoted+1 {
		t.Errorf("the new owner is started, and the old one was told %q", w.hostA.came())
	}
	close(started.open)
	w.inPhase("shop", serviceRunning)
	w.nothingIsLeft()
	if slices.Contains(w.hostA.came(), "stop") {
		t.Error("the old owner's volumes were removed")
	}
}

// TestAWishIsAnsweredAgainAlsoWhenAnotherWasDecidedSince: an operator whose answer was lost asks again, and somebody else has been faster.
func TestAWishIsAnsweredAgainAlsoWhenAnotherWasDecidedSince(t *testing.T) {
	w := newPair(t)
	first, err := w.failover(&pb.FailoverRequest{Service: "shop", Request: "one", Force: true})
	if err != nil {
		t.Fatal(err)
	}
	w.inPhase("shop", serviceRunning)
	w.hostA.keeps("shop", true)
	w.beaten(w.hostA)
	if _, err := w.failover(&pb.FailoverRequest{Service: "shop", Request: "two", Force: true}); err != nil {
		t.Fatal(err)
	}
	again, err := w.failover(&pb.FailoverRequest{Service: "shop", Request: "one", Force: true})
	if err != nil || again.GetEpoch() != first.GetEpoch() {
		t.Errorf("asked again: %v, %v, after %v", again, err, first)
	}
	w.ownedBy("shop", "host-a")
}

// TestAFailoverDuringTheStartOfAnotherIsStartedToo: what ends is the start of an owner that is none any more.
func TestAFailoverDuringTheStartOfAnotherIsStartedToo(t *testing.T) {
	w := newPair(t)
	starting := w.edgeB.stopAt("start")
	if _, err := w.failover(&pb.FailoverRequest{Service: "shop", Force: true}); err != nil {
		t.Fatal(err)
	}
	starting.wait(t)
	w.hostA.keeps("shop", true)
	w.beaten(w.hostA)
	if _, err := w.failover(&pb.FailoverRequest{Service: "shop", Force: true}); err != nil {
		t.Fatal(err)
	}
	close(starting.open)
	w.until("the newer owner to be started", func() bool { return w.hostA.count("promote") == 1 })
	w.inPhase("shop", serviceRunning)
}

// TestADemotionIsAskedForAgainThatMetANewerWish: whoever sent that did not know of the failover.
func TestADemotionIsAskedForAgainThatMetANewerWish(t *testing.T) {
	w := newPair(t)
	demoted := w.hostA.count(toStandby)
	w.hostA.refuseAt(toStandby, "wish 7 is over, 9 has been seen since")
	if _, err := w.failover(&pb.FailoverRequest{Service: "shop", Force: true}); err != nil {
		t.Fatal(err)
	}
	w.inPhase("shop", serviceRunning)
	if w.hostA.count(toStandby) < demoted+2 {
		t.Errorf("the old owner was told %q", w.hostA.came())
	}
	if left, err := w.services.leftovers(t.Context(), "shop"); err != nil || !slices.ContainsFunc(left, func(l leftoverRecord) bool { return l.Agent == "host-a" }) {
		t.Errorf("it is not known any more that the old owner has to be stopped: %v, %v", left, err)
	}
}

// TestAHostThatIsTheOwnerAgainIsNotDemoted: it was, and the controller died before it could forget that.
func TestAHostThatIsTheOwnerAgainIsNotDemoted(t *testing.T) {
	w := newPair(t)
	if _, err := w.failover(&pb.FailoverRequest{Service: "shop", Force: true}); err != nil {
		t.Fatal(err)
	}
	w.inPhase("shop", serviceRunning)
	w.nothingIsLeft()
	w.hostA.keeps("shop", true)
	w.beaten(w.hostA)
	stopped := w.hostB.stopAt(toStandby)
	if _, err := w.failover(&pb.FailoverRequest{Service: "shop", Force: true}); err != nil {
		t.Fatal(err)
	}
	stopped.wait(t)
	demoted := w.hostA.count(toStandby)
	op, err := (leftoverRecord{Service: "shop", Agent: "host-a", Site: "a", What: demote, Epoch: 2, Spec: []byte("{}")}).op()
	if err == nil {
		_, err = w.store.Txn(w.ctx(), nil, []cluster.Op{op})
	}
	if err != nil {
		t.Fatal(err)
	}
	close(stopped.open)
	w.inPhase("shop", serviceRunning)
	w.nothingIsLeft()
	if w.hostA.count(toStandby) != demoted {
		t.Error("the owner was demoted")
	}
}

// TestAControllerThatLeadsNoMoreNotesNoStart: the leader may know that what was started is dead already.
func TestAControllerThatLeadsNoMoreNotesNoStart(t *testing.T) {
	w := newPair(t)
	starting := w.edgeB.stopAt("start")
	if _, err := w.failover(&pb.FailoverRequest{Service: "shop", Force: true}); err != nil {
		t.Fatal(err)
	}
	starting.wait(t)
	w.depose()
	close(starting.open)
	w.atRest("shop")
	var r serviceRecord
	if _, err := load(t.Context(), w.store, servicePrefix+"shop", &r); err != nil || r.Phase != serviceStarting {
		t.Errorf("the service is %s, %v", r.Phase, err)
	}
}

// TestAsManyFailoversAreStoredAsWishesAreRemembered: a wish is answered with what is stored of it.
func TestAsManyFailoversAreStoredAsWishesAreRemembered(t *testing.T) {
	var r serviceRecord
	var s failover.State
	for n := range 2 * failover.Remembered {
		request := fmt.Sprint("wish ", n)
		s = s.Decide(failover.Attempt{Epoch: uint64(n + 1), Request: request})
		if err := r.remember(&pb.Failover{Request: request}, len(s.Requests)); err != nil {
			t.Fatal(err)
		}
		var stored []string
		all, err := r.failovers()
		for _, f := range all {
			stored = append(stored, f.GetRequest())
		}
		if err != nil || !slices.Equal(stored, s.Requests) {
			t.Fatalf("%q are stored, %v; %q are remembered", stored, err, s.Requests)
		}
	}
}
