package controller

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
)

func (w *world) change(req *pb.ChangeVolumeRequest) (unchanged bool, err error) {
	res, err := w.as(asOperator).ChangeVolume(w.ctx(), connect.NewRequest(req))
	if err != nil {
		return false, err
	}
	return res.Msg.GetUnchanged(), nil
}

func TestAVolumeGrowsByARestartAndItsReplicaIsMadeAnew(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	hostB, _ := w.site("b")
	spec := w.replicated("b")
	before := w.ownedBy("shop", "host-a")
	if unchanged, err := w.change(&pb.ChangeVolumeRequest{Service: "shop", Volume: "root", Size: 128 * mib}); !unchanged || err != nil {
		t.Errorf("the size that it has: %v, %v", unchanged, err)
	}
	if hostB.count(toNothing) != 0 {
		t.Error("the replication was ended for nothing")
	}
	if _, err := w.change(&pb.ChangeVolumeRequest{Service: "shop", Volume: "root", Size: 256 * mib}); err != nil {
		t.Fatal(err)
	}
	w.until("the restart", func() bool { return hostA.count("restart 268435456 map[]") == 1 })
	w.inPhase("shop", serviceRunning)
	w.until("the replica to be made anew", func() bool { return hostB.count(toNothing) == 1 && hostB.count(toStandby) > 1 })
	if after := w.ownedBy("shop", "host-a"); after.Epoch <= before.Epoch {
		t.Errorf("it was restarted under epoch %d, after %d", after.Epoch, before.Epoch)
	}
	spec.Volumes[0].Size = 256 * mib
	res, err := w.as(asOperator).Apply(w.ctx(), connect.NewRequest(&pb.ApplyRequest{Service: spec}))
	if err != nil || res.Msg.GetOutcome() != "unchanged" {
		t.Errorf("the manifest with the new size: %v, %v", res, err)
	}
	w.disconnect(hostA)
	w.connect(hostA)
	if n := hostA.count("restart 268435456 map[]"); n != 1 {
		t.Errorf("it was restarted %d times", n)
	}
}

func TestAVolumeIsFilledAnewByARestart(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	w.running(specOf("shop", "a"))
	blob := "b3-" + strings.Repeat("ab", 32)
	if err := os.WriteFile(filepath.Join(w.blobs.dir, blob), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.change(&pb.ChangeVolumeRequest{Service: "shop", Volume: "root", Image: blob}); err != nil {
		t.Fatal(err)
	}
	w.until("the restart", func() bool { return hostA.count("restart 134217728 map[root:"+blob+"]") == 1 })
	w.inPhase("shop", serviceRunning)
}

func TestAChangeOfAVolumeIsRefusedWithAReason(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	w.running(specOf("shop", "a"))
	for _, c := range []struct {
		req  *pb.ChangeVolumeRequest
		code connect.Code
		text string
	}{
		{&pb.ChangeVolumeRequest{Service: "nobody", Volume: "root", Size: mib}, connect.CodeNotFound, "nobody"},
		{&pb.ChangeVolumeRequest{Service: "shop", Volume: "other", Size: mib}, connect.CodeNotFound, "shop/other"},
		{&pb.ChangeVolumeRequest{Service: "shop", Volume: "root", Size: 64 * mib}, connect.CodeInvalidArgument, "volumes grow only"},
		{&pb.ChangeVolumeRequest{Service: "shop", Volume: "root", Size: 129*mib + 1}, connect.CodeInvalidArgument, "multiple of 4096"},
		{&pb.ChangeVolumeRequest{Service: "shop", Volume: "root", Size: 1 << 50}, connect.CodeFailedPrecondition, "has 10240 MiB free"},
		{&pb.ChangeVolumeRequest{Service: "shop", Volume: "root", Image: "b3-none"}, connect.CodeInvalidArgument, "no blob"},
	} {
		_, err := w.change(c.req)
		refused(t, err, c.code, c.text)
	}
	w.disconnect(hostA)
	_, err := w.change(&pb.ChangeVolumeRequest{Service: "shop", Volume: "root", Size: 256 * mib})
	refused(t, err, connect.CodeFailedPrecondition, "the agent of host-a is down")
}
