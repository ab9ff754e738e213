package controller

import (
	"testing"

	"connectrpc.com/connect"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/migration"
)

func TestWhatCannotBeMigratedIsRefusedBeforehand(t *testing.T) {
	w := newWorld(t)
	w.site("a")
	w.site("b")
	small, _ := w.site("small")
	full, _ := w.site("full")
	old, _ := w.site("old")
	other, _ := w.site("other")
	broken, _ := w.site("broken")
	deaf, _ := w.site("deaf")
	w.agent("host", "bare", "host-bare")
	for agent, change := range map[*fakeAgent]func(*pb.HostFacts){
		small:  func(f *pb.HostFacts) { f.MemoryFree = 63 * mib },
		full:   func(f *pb.HostFacts) { f.DiskFree = 127 * mib },
		old:    func(f *pb.HostFacts) { f.MachineTypes = []string{"pc-q35-6.0"} },
		other:  func(f *pb.HostFacts) { f.CpuModels = []string{"EPYC"} },
		broken: func(f *pb.HostFacts) { f.Problem = "qemu-system-x86_64 is not installed" },
	} {
		w.disconnect(agent)
		change(agent.facts)
		w.connect(agent)
	}
	w.disconnect(deaf)
	w.running(specOf("shop", "a"))
	for _, c := range []struct {
		name, service, site string
		code                connect.Code
		texts               []string
	}{
		{"unknown service", "nope", "b", connect.CodeNotFound, []string{`no service "nope"`, "hint: godwit get services"}},
		{"unknown site", "shop", "mars", connect.CodeInvalidArgument, []string{`site "mars" is not known`, "known: a, b, bare", "hint: a site exists when"}},
		{"its own site", "shop", "a", connect.CodeFailedPrecondition, []string{"at site a already"}},
		{"agent down", "shop", "deaf", connect.CodeFailedPrecondition, []string{"the agent of host-deaf is down", "last seen"}},
		{"no edge", "shop", "bare", connect.CodeFailedPrecondition, []string{"site bare has no edge", "hint: godwit token create --role edge --site bare"}},
		{"memory", "shop", "small", connect.CodeFailedPrecondition, []string{"host-small", "too little memory: 63 MiB free, the server needs 64 MiB"}},
		{"disk", "shop", "full", connect.CodeFailedPrecondition, []string{"host-full", "too little disk space: 127 MiB free, the volumes need 128 MiB"}},
		{"machine type", "shop", "old", connect.CodeFailedPrecondition, []string{"host-old", "machine type pc-q35-7.2", "install the same QEMU"}},
		{"CPU model", "shop", "other", connect.CodeFailedPrecondition, []string{"host-other", "CPU model qemu64"}},
		{"no QEMU", "shop", "broken", connect.CodeFailedPrecondition, []string{"host-broken", "not installed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := w.as(asOperator).Migrate(w.ctx(), connect.NewRequest(&pb.MigrateRequest{Service: c.service, ToSite: c.site}))
			refused(t, err, c.code, c.texts...)
		})
	}
	t.Run("source's agent down", func(t *testing.T) {
		w.disconnect(w.agents[1])
		_, err := w.as(asOperator).Migrate(w.ctx(), connect.NewRequest(&pb.MigrateRequest{Service: "shop", ToSite: "b"}))
		refused(t, err, connect.CodeFailedPrecondition, "the agent of edge-a is down", "hint: start it")
	})
	if left, _, err := w.store.List(t.Context(), migrationPrefix); err != nil || len(left) != 0 {
		t.Errorf("stored: %v, %v", left, err)
	}
}

func TestWhatCannotBeAppliedIsRefused(t *testing.T) {
	w := newWorld(t)
	w.site("a")
	first := specOf("shop", "a")
	first.Addresses = []string{"192.0.2.10"}
	w.running(first)
	for _, c := range []struct {
		name  string
		spec  func(*pb.ServiceSpec)
		code  connect.Code
		texts []string
	}{
		{"name", func(s *pb.ServiceSpec) { s.Name = "Shop_2" }, connect.CodeInvalidArgument, []string{`name "Shop_2"`, "want lower-case"}},
		{"no server", func(s *pb.ServiceSpec) { s.Server = nil }, connect.CodeInvalidArgument, []string{"no server"}},
		{"memory", func(s *pb.ServiceSpec) { s.Server.Memory = 64*mib + 1 }, connect.CodeInvalidArgument, []string{"server.memory", "whole MiB"}},
		{"CPUs", func(s *pb.ServiceSpec) { s.Server.Cpus = 257 }, connect.CodeInvalidArgument, []string{"server.cpus is 257", "1 to 256"}},
		{"nothing to boot", func(s *pb.ServiceSpec) { s.Volumes = nil }, connect.CodeInvalidArgument, []string{"neither a kernel nor a volume"}},
		{"volume size", func(s *pb.ServiceSpec) { s.Volumes[0].Size = 1000 }, connect.CodeInvalidArgument, []string{"volume root: size is 1000 bytes"}},
		{"volume twice", func(s *pb.ServiceSpec) { s.Volumes = append(s.Volumes, s.Volumes[0]) }, connect.CodeInvalidArgument, []string{`"root" is there twice`}},
		{"no such blob", func(s *pb.ServiceSpec) { s.Volumes[0].Image = "b3-00" }, connect.CodeInvalidArgument, []string{"volume root", "b3-00"}},
		{"address", func(s *pb.ServiceSpec) { s.Addresses = []string{"2001:db8::1"} }, connect.CodeInvalidArgument, []string{"2001:db8::1", "IPv4"}},
		{"address taken", func(s *pb.ServiceSpec) { s.Addresses = []string{"192.0.2.11", "192.0.2.10"} }, connect.CodeAlreadyExists, []string{"192.0.2.10 belongs to service shop", "hint: choose another address"}},
		{"other site", func(s *pb.ServiceSpec) { s.Site = "mars" }, connect.CodeInvalidArgument, []string{`site "mars"`}},
		{"too large", func(s *pb.ServiceSpec) { s.Server.Memory = 1 << 40 }, connect.CodeFailedPrecondition, []string{"host-a", "too little memory"}},
		{"changed", func(s *pb.ServiceSpec) { s.Name = "shop" }, connect.CodeFailedPrecondition, []string{"exists and is different", "hint: a running service cannot be changed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := specOf("second", "a")
			c.spec(spec)
			_, err := w.as(asOperator).Apply(w.ctx(), connect.NewRequest(&pb.ApplyRequest{Service: spec}))
			refused(t, err, c.code, c.texts...)
		})
	}
	res, err := w.as(asOperator).Apply(w.ctx(), connect.NewRequest(&pb.ApplyRequest{Service: first}))
	if err != nil || res.Msg.GetOutcome() != "unchanged" {
		t.Errorf("the same once more: %v, %v", res, err)
	}
	// In another network, the address is another one.
	elsewhere := specOf("third", "a")
	elsewhere.Network, elsewhere.Addresses = "lab", []string{"192.0.2.10"}
	w.running(elsewhere)
}

// The machine type and CPU model of the first start stay with the service wherever it goes.
func TestTheMachineTypeIsPinnedAtTheFirstStart(t *testing.T) {
	w := newWorld(t)
	w.site("a")
	hostB, _ := w.site("b")
	w.disconnect(hostB)
	hostB.facts.MachineTypes = []string{"pc-q35-9.0", "pc-q35-7.2"}
	w.connect(hostB)
	w.running(specOf("shop", "a"))
	w.ended(w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b"}).GetName(), migration.Completed)
	objects, err := w.as(asViewer).Get(w.ctx(), connect.NewRequest(&pb.GetRequest{Kind: "services", Name: "shop"}))
	if err != nil {
		t.Fatal(err)
	}
	s := objects.Msg.GetObjects()[0].GetService()
	if s.GetSpec().GetServer().GetMachineType() != "pc-q35-7.2" || s.GetStatus().GetSite() != "b" || s.GetStatus().GetPhase() != serviceRunning {
		t.Errorf("service is %v", s)
	}
}

func TestDeleteWaitsUntilTheServiceIsGone(t *testing.T) {
	w := newWorld(t)
	hostA, edgeA := w.site("a")
	spec := specOf("shop", "a")
	spec.Addresses = []string{"192.0.2.10"}
	w.running(spec)
	g := hostA.stopAt("stop")
	deleted := make(chan error, 1)
	ctx := w.ctx()
	operator := w.as(asOperator)
	go func() {
		_, err := operator.Delete(ctx, connect.NewRequest(&pb.DeleteRequest{Kind: "service", Name: "shop"}))
		deleted <- err
	}()
	g.wait(t)
	if edgeA.count("stop") != 1 {
		t.Error("the host was told before the edge: traffic is led to a machine that is going away")
	}
	select {
	case err := <-deleted:
		t.Fatalf("delete returned before the host had answered: %v", err)
	default:
	}
	_, err := operator.Apply(ctx, connect.NewRequest(&pb.ApplyRequest{Service: spec}))
	refused(t, err, connect.CodeFailedPrecondition, "is being deleted", "hint: wait")
	close(g.open)
	if err := <-deleted; err != nil {
		t.Fatal(err)
	}
	_, err = operator.Get(ctx, connect.NewRequest(&pb.GetRequest{Kind: "service", Name: "shop"}))
	refused(t, err, connect.CodeNotFound)
	_, err = operator.Delete(ctx, connect.NewRequest(&pb.DeleteRequest{Kind: "service", Name: "shop"}))
	refused(t, err, connect.CodeNotFound)
	w.running(spec) // its name and its address are free again
}

func TestTheNextControllerFinishesADeletion(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	w.running(specOf("shop", "a"))
	g := hostA.stopAt("stop")
	gone := w.store.Watch(w.ctx(), servicePrefix+"shop", 0)
	operator, ctx := w.as(asOperator), w.ctx()
	deleted := make(chan error, 1)
	go func() {
		_, err := operator.Delete(ctx, connect.NewRequest(&pb.DeleteRequest{Kind: "service", Name: "shop"}))
		deleted <- err
	}()
	g.wait(t)
	w.kill()
	if err := <-deleted; err == nil {
		t.Error("delete succeeded though its controller was killed")
	}
	close(g.open)
	w.live()
	for c := range gone {
		if c.Deleted {
			return
		}
	}
	t.Error("the service was not deleted")
}

func TestAFailedStartIsShownAndTriedAgainByTheNextApply(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	hostA.failAt("start", "volume root: no space left on device")
	spec := specOf("shop", "a")
	if _, err := w.as(asOperator).Apply(w.ctx(), connect.NewRequest(&pb.ApplyRequest{Service: spec})); err != nil {
		t.Fatal(err)
	}
	w.inPhase("shop", serviceFailed)
	res, err := w.as(asViewer).Get(w.ctx(), connect.NewRequest(&pb.GetRequest{Kind: "service", Name: "shop"}))
	if err != nil {
		t.Fatal(err)
	}
	if got := res.Msg.GetObjects()[0].GetService().GetStatus().GetMessage(); got != "agent host-a: volume root: no space left on device" {
		t.Errorf("message is %q", got)
	}
	hostA.failAt("start", "")
	w.running(spec)
}

func TestADeadVirtualServerIsStartedAgain(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	w.running(specOf("shop", "a"))
	owner := w.ownedBy("shop", "host-a")

	t.Run("told by a notice", func(t *testing.T) {
		starts := hostA.count("start")
		hostA.holds("shop", "dead")
		hostA.tell(&pb.Notice{Service: "shop", Epoch: owner.Epoch, Participant: "server", Role: "source", Reason: "the virtual server died"})
		w.until("it was started again", func() bool { return hostA.count("start") > starts })
		w.inPhase("shop", serviceRunning)
	})
	t.Run("found when the agent comes back", func(t *testing.T) {
		starts := hostA.count("start")
		w.disconnect(hostA)
		hostA.holds("shop", "")
		w.connect(hostA)
		w.until("it was started again", func() bool { return hostA.count("start") > starts })
		w.inPhase("shop", serviceRunning)
	})
	t.Run("one that lives is left alone", func(t *testing.T) {
		starts := hostA.count("start")
		w.disconnect(hostA)
		w.connect(hostA)
		if err := w.services.lookAt(w.ctx(), "host-a"); err != nil {
			t.Fatal(err)
		}
		if hostA.count("start") != starts {
			t.Error("it was started again")
		}
	})
	if after := w.ownedBy("shop", "host-a"); after != owner {
		t.Errorf("owner is %+v, was %+v", after, owner)
	}
}
