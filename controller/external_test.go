package controller

import (
	"testing"

	"connectrpc.com/connect"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/migration"
)

// sharing is a service whose disk all sites reach.
func sharing(name, site string) *pb.ServiceSpec {
	return &pb.ServiceSpec{Name: name, Site: site, Server: &pb.ServerSpec{Memory: 64 * mib}, Volumes: []*pb.VolumeSpec{{Name: "root", External: "/mnt/nfs/" + name + ".raw"}}}
}

func TestAnExternalDiskIsOfOneServiceAndNeedsNoRoom(t *testing.T) {
	w := newWorld(t)
	w.site("a")
	hostB, _ := w.site("b")
	hostB.facts.DiskFree = 0
	w.running(sharing("shop", "a"))
	other := sharing("crm", "a")
	other.Volumes[0].External = "/mnt/nfs/shop.raw"
	_, err := w.as(asOperator).Apply(w.ctx(), connect.NewRequest(&pb.ApplyRequest{Service: other}))
	refused(t, err, connect.CodeAlreadyExists, "external disk /mnt/nfs/shop.raw is in use by service shop")
	w.ended(w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b"}).GetName(), migration.Completed)
	if err := w.delete("service", "shop", false); err != nil {
		t.Fatal(err)
	}
	w.running(other)
}

func TestAServiceWithAnExternalDiskIsRefused(t *testing.T) {
	w := newWorld(t)
	w.site("a")
	w.site("b")
	for text, change := range map[string]func(*pb.ServiceSpec){
		"has the size and the content that it has": func(s *pb.ServiceSpec) { s.Volumes[0].Size = mib },
		"want an absolute path":                    func(s *pb.ServiceSpec) { s.Volumes[0].External = "nfs/x" },
		"no volume to replicate":                   func(s *pb.ServiceSpec) { s.Storage = &pb.StorageSpec{ReplicateTo: "b"} },
		"/mnt/nfs/shop.raw is there twice": func(s *pb.ServiceSpec) {
			s.Volumes = append(s.Volumes, &pb.VolumeSpec{Name: "again", External: "/mnt/nfs/shop.raw"})
		},
	} {
		spec := sharing("shop", "a")
		change(spec)
		_, err := w.as(asOperator).Apply(w.ctx(), connect.NewRequest(&pb.ApplyRequest{Service: spec}))
		refused(t, err, connect.CodeInvalidArgument, text)
	}
	w.running(sharing("shop", "a"))
	_, err := w.change(&pb.ChangeVolumeRequest{Service: "shop", Volume: "root", Size: mib})
	refused(t, err, connect.CodeFailedPrecondition, "not Godwit's to change")
}

func TestAServiceWithExternalDisksFailsOverWhenItsHostIsSaidToBeDead(t *testing.T) {
	w := newWorld(t)
	hostA, edgeA := w.site("a")
	hostB, _ := w.site("b")
	w.running(sharing("shop", "a"))
	_, err := w.failover(&pb.FailoverRequest{Service: "shop"})
	refused(t, err, connect.CodeFailedPrecondition, "say where it is to run")
	_, err = w.failover(&pb.FailoverRequest{Service: "shop", ToSite: "b"})
	refused(t, err, connect.CodeFailedPrecondition, "the agent of host-a answers", "godwit migrate")
	w.disconnect(hostA)
	w.disconnect(edgeA)
	_, err = w.failover(&pb.FailoverRequest{Service: "shop", ToSite: "b"})
	refused(t, err, connect.CodeFailedPrecondition, "nobody knows whether service shop still writes", "make sure that host-a is dead")
	if _, err := w.failover(&pb.FailoverRequest{Service: "shop", ToSite: "b", Force: true}); err != nil {
		t.Fatal(err)
	}
	w.until("it is started at b", func() bool { return hostB.count("start") == 1 })
	w.ownedBy("shop", "host-b")
	w.inPhase("shop", serviceRunning)
	w.connect(hostA)
	w.until("what a had is ended", func() bool { return hostA.count("stop") == 1 })
}

func TestAHostThatAnswersIsStoppedBeforeAnExternalDiskIsUsedElsewhere(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	hostB, _ := w.site("b")
	w.running(sharing("shop", "a"))
	stop := hostA.stopAt("stop")
	if _, err := w.failover(&pb.FailoverRequest{Service: "shop", ToSite: "b", Force: true}); err != nil {
		t.Fatal(err)
	}
	stop.wait(t)
	if hostB.count("start") != 0 {
		t.Error("two hosts use the disk")
	}
	close(stop.open)
	w.until("it is started at b", func() bool { return hostB.count("start") == 1 })
}

func TestAServiceIsNotStartedOnAnExternalDiskThatItsOldHostDoesNotGiveUp(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	hostB, _ := w.site("b")
	w.running(sharing("shop", "a"))
	hostA.failAt("stop", "QEMU does not end")
	if _, err := w.failover(&pb.FailoverRequest{Service: "shop", ToSite: "b", Force: true}); err != nil {
		t.Fatal(err)
	}
	w.inPhase("shop", serviceFailed)
	if hostB.count("start") != 0 {
		t.Error("two hosts use the disk")
	}
}
