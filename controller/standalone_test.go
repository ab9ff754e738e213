package controller

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/migration"
)

func (w *world) createVolume(req *pb.CreateVolumeRequest) (outcome string, err error) {
	res, err := w.as(asOperator).CreateVolume(w.ctx(), connect.NewRequest(req))
	if err != nil {
		return "", err
	}
	return res.Msg.GetOutcome(), nil
}

// volumesNamed are all copies of a volume that users see.
func (w *world) volumesNamed(name string) []*pb.Volume {
	w.t.Helper()
	res, err := w.as(asViewer).Get(w.ctx(), connect.NewRequest(&pb.GetRequest{Kind: "volume", Name: name}))
	if connect.CodeOf(err) == connect.CodeNotFound {
		return nil
	}
	if err != nil {
		w.t.Fatal(err)
	}
	var all []*pb.Volume
	for _, o := range res.Msg.GetObjects() {
		all = append(all, o.GetVolume())
	}
	return all
}

// ready makes a volume and waits until it is there.
func (w *world) ready(name, site string) {
	w.t.Helper()
	if outcome, err := w.createVolume(&pb.CreateVolumeRequest{Name: name, Size: 128 * mib, Site: site}); err != nil || outcome != "created" {
		w.t.Fatal(outcome, err)
	}
	w.volumeIs(name, volumeReady)
}

func (w *world) volumeIs(name, phase string) {
	w.t.Helper()
	w.until("volume "+name+" is "+phase, func() bool {
		all := w.volumesNamed(name)
		return len(all) == 1 && all[0].GetPhase() == phase && all[0].GetSite() != ""
	})
}

func (w *world) delete(kind, name string, volumes bool) error {
	_, err := w.as(asOperator).Delete(w.ctx(), connect.NewRequest(&pb.DeleteRequest{Kind: kind, Name: name, Volumes: volumes}))
	return err
}

// using is a service whose volume is one that stands alone.
func using(name, site, volume string) *pb.ServiceSpec {
	return &pb.ServiceSpec{Name: name, Site: site, Server: &pb.ServerSpec{Memory: 64 * mib}, Volumes: []*pb.VolumeSpec{{Name: "root", Volume: volume}}}
}

func TestAVolumeStandsAlone(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	w.ready("archive", "a")
	v := w.volumesNamed("archive")[0]
	if !v.GetStandalone() || v.GetService() != "" || v.GetHost() != "host-a" || v.GetSize() != 128*mib || v.GetRole() != "primary" {
		t.Errorf("it is %v", v)
	}
	for _, req := range []*pb.CreateVolumeRequest{
		{Name: "archive", Size: 128 * mib, Site: "a"}, {Name: "archive", Size: 128 * mib, Host: "host-a"},
	} {
		if outcome, err := w.createVolume(req); err != nil || outcome != "unchanged" {
			t.Errorf("made again: %s, %v", outcome, err)
		}
	}
	if n := hostA.count("place archive 134217728"); n != 1 {
		t.Errorf("it was placed %d times", n)
	}
	if err := w.delete("volume", "archive", false); err != nil {
		t.Fatal(err)
	}
	if all := w.volumesNamed("archive"); len(all) != 0 || hostA.count("remove archive") != 1 {
		t.Errorf("left: %v", all)
	}
}

func TestAVolumeCannotBeMade(t *testing.T) {
	w := newWorld(t)
	w.site("a")
	w.site("b")
	w.ready("archive", "a")
	for _, c := range []struct {
		why  string
		req  *pb.CreateVolumeRequest
		code connect.Code
		text string
	}{
		{"bad name", &pb.CreateVolumeRequest{Name: "Archive", Size: mib, Site: "a"}, connect.CodeInvalidArgument, "want lower-case letters"},
		{"bad name with a dot", &pb.CreateVolumeRequest{Name: "shop.root", Size: mib, Site: "a"}, connect.CodeInvalidArgument, "want lower-case letters"},
		{"no size", &pb.CreateVolumeRequest{Name: "x", Site: "a"}, connect.CodeInvalidArgument, "size is 0 bytes"},
		{"crooked size", &pb.CreateVolumeRequest{Name: "x", Size: 5000, Site: "a"}, connect.CodeInvalidArgument, "multiple of 4096"},
		{"no place", &pb.CreateVolumeRequest{Name: "x", Size: mib}, connect.CodeInvalidArgument, "want a site or a host"},
		{"no such site", &pb.CreateVolumeRequest{Name: "x", Size: mib, Site: "c"}, connect.CodeFailedPrecondition, "site c has no host"},
		{"no such host", &pb.CreateVolumeRequest{Name: "x", Size: mib, Host: "edge-a"}, connect.CodeInvalidArgument, `no host "edge-a"`},
		{"a host of another site", &pb.CreateVolumeRequest{Name: "x", Size: mib, Host: "host-a", Site: "b"}, connect.CodeInvalidArgument, "not at site b"},
		{"no room", &pb.CreateVolumeRequest{Name: "x", Size: 1 << 50, Site: "a"}, connect.CodeFailedPrecondition, "too little disk space"},
		{"no such image", &pb.CreateVolumeRequest{Name: "x", Size: mib, Site: "a", Image: "b3-none"}, connect.CodeInvalidArgument, "no blob"},
		{"another size", &pb.CreateVolumeRequest{Name: "archive", Size: mib, Site: "a"}, connect.CodeAlreadyExists, "exists, of 134217728 bytes on host host-a"},
		{"another site", &pb.CreateVolumeRequest{Name: "archive", Size: 128 * mib, Site: "b"}, connect.CodeAlreadyExists, "exists"},
	} {
		t.Run(c.why, func(t *testing.T) {
			_, err := w.createVolume(c.req)
			refused(t, err, c.code, c.text)
		})
	}
}

func TestAServiceUsesAVolumeAndLeavesItWhereItWas(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	hostB, _ := w.site("b")
	w.ready("archive", "a")
	w.running(using("shop", "a", "archive"))
	w.ownedBy("shop", "host-a")
	if v := w.volumesNamed("archive")[0]; v.GetService() != "shop" {
		t.Errorf("in use it is %v", v)
	}
	res, err := w.as(asOperator).Apply(w.ctx(), connect.NewRequest(&pb.ApplyRequest{Service: using("shop", "a", "archive")}))
	if err != nil || res.Msg.GetOutcome() != "unchanged" {
		t.Errorf("applied again: %v, %v", res, err)
	}
	refused(t, w.delete("volume", "archive", false), connect.CodeFailedPrecondition, "volume archive is in use by service shop", "godwit delete service shop")
	_, err = w.as(asOperator).Apply(w.ctx(), connect.NewRequest(&pb.ApplyRequest{Service: using("crm", "a", "archive")}))
	refused(t, err, connect.CodeFailedPrecondition, "volume archive is in use by service shop")
	w.ended(w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b"}).GetName(), migration.Completed)
	hostA.shelves(&pb.PlaceVolume{Name: "archive", Remove: true})
	hostB.shelves(&pb.PlaceVolume{Name: "archive", Size: 128 * mib})
	if err := w.delete("service", "shop", false); err != nil {
		t.Fatal(err)
	}
	if hostB.count("stop and keep") != 1 || hostA.count("stop and keep") != 0 {
		t.Errorf("the hosts were told %v and %v", hostA.came(), hostB.came())
	}
	w.until("the volume stands at b", func() bool {
		all := w.volumesNamed("archive")
		return len(all) == 1 && all[0].GetHost() == "host-b" && all[0].GetService() == ""
	})
	_, err = w.as(asOperator).Apply(w.ctx(), connect.NewRequest(&pb.ApplyRequest{Service: using("crm", "a", "archive")}))
	refused(t, err, connect.CodeFailedPrecondition, "volume archive is at site b", "start it at b")
	w.running(using("crm", "b", "archive"))
	if err := w.delete("service", "crm", true); err != nil {
		t.Fatal(err)
	}
	if hostB.count("stop") != 1 {
		t.Errorf("the host was told %v", hostB.came())
	}
	hostB.shelves(&pb.PlaceVolume{Name: "archive", Remove: true})
	if _, err := w.createVolume(&pb.CreateVolumeRequest{Name: "archive", Size: mib, Site: "a"}); err != nil {
		t.Errorf("it is not gone with its service: %v", err)
	}
}

func TestAServiceCannotUseAVolume(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	w.agent("host", "a", "host-a2")
	w.ready("archive", "a")
	if _, err := w.createVolume(&pb.CreateVolumeRequest{Name: "other", Size: mib, Host: "host-a2"}); err != nil {
		t.Fatal(err)
	}
	w.volumeIs("other", volumeReady)
	hostA.failAt("place broken 1048576", "no space left on device")
	if _, err := w.createVolume(&pb.CreateVolumeRequest{Name: "broken", Size: mib, Site: "a"}); err != nil {
		t.Fatal(err)
	}
	w.volumeIs("broken", volumeFailed)
	for why, c := range map[string]struct {
		volumes []*pb.VolumeSpec
		text    string
	}{
		"unknown":            {[]*pb.VolumeSpec{{Name: "root", Volume: "none"}}, `no volume "none" that stands alone`},
		"a service's":        {[]*pb.VolumeSpec{{Name: "root", Volume: "shop.root"}}, "is of service shop"},
		"with another size":  {[]*pb.VolumeSpec{{Name: "root", Volume: "archive", Size: mib}}, "leave size out"},
		"with an image":      {[]*pb.VolumeSpec{{Name: "root", Volume: "archive", Image: "b3-x"}}, "has its content"},
		"twice":              {[]*pb.VolumeSpec{{Name: "root", Volume: "archive"}, {Name: "data", Volume: "archive"}}, "archive is there twice"},
		"of different hosts": {[]*pb.VolumeSpec{{Name: "root", Volume: "archive"}, {Name: "data", Volume: "other"}}, "all of its volumes on one host"},
		"that is not ready":  {[]*pb.VolumeSpec{{Name: "root", Volume: "broken"}}, "is failed: agent host-a: no space left"},
	} {
		t.Run(why, func(t *testing.T) {
			spec := using("shop", "a", "archive")
			spec.Volumes = c.volumes
			_, err := w.as(asOperator).Apply(w.ctx(), connect.NewRequest(&pb.ApplyRequest{Service: spec}))
			if err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v, want %q", err, c.text)
			}
		})
	}
	spec := using("shop", "a", "other")
	w.running(spec)
	w.ownedBy("shop", "host-a2") // where its volume is, not the first that fits
}

func TestAVolumeThatStandsAloneIsChangedWithoutARestart(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	w.ready("archive", "a")
	if unchanged, err := w.change(&pb.ChangeVolumeRequest{Volume: "archive", Size: 128 * mib}); !unchanged || err != nil {
		t.Errorf("the size that it has: %v, %v", unchanged, err)
	}
	if _, err := w.change(&pb.ChangeVolumeRequest{Volume: "archive", Size: 256 * mib}); err != nil {
		t.Fatal(err)
	}
	w.until("it is larger", func() bool { return hostA.count("place archive 268435456") == 1 })
	w.volumeIs("archive", volumeReady)
	blob := "b3-" + strings.Repeat("ab", 32)
	if err := os.WriteFile(filepath.Join(w.blobs.dir, blob), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.change(&pb.ChangeVolumeRequest{Volume: "archive", Image: blob}); err != nil {
		t.Fatal(err)
	}
	w.until("it is filled", func() bool { return hostA.count("place archive 268435456"+blob) == 1 })
	w.volumeIs("archive", volumeReady)
	_, err := w.change(&pb.ChangeVolumeRequest{Volume: "archive", Size: mib})
	refused(t, err, connect.CodeInvalidArgument, "volumes grow only")
	_, err = w.change(&pb.ChangeVolumeRequest{Volume: "none", Size: mib})
	refused(t, err, connect.CodeNotFound, `no volume "none"`)

	w.running(using("shop", "a", "archive"))
	if _, err := w.change(&pb.ChangeVolumeRequest{Volume: "archive", Size: 512 * mib}); err != nil {
		t.Fatal(err)
	}
	w.until("its service is restarted with it", func() bool { return hostA.count("restart 536870912 map[]") == 1 })
	w.inPhase("shop", serviceRunning)
	if err := w.delete("service", "shop", false); err != nil {
		t.Fatal(err)
	}
	if unchanged, err := w.change(&pb.ChangeVolumeRequest{Volume: "archive", Size: 512 * mib}); !unchanged || err != nil {
		t.Errorf("its new size was not kept: %v, %v", unchanged, err)
	}
}

func TestWhatAHostHasStillToDoForAVolumeIsDoneWhenItIsBack(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	hostA.failAt("place archive 1048576", "the disk is not mounted")
	if _, err := w.createVolume(&pb.CreateVolumeRequest{Name: "archive", Size: mib, Site: "a"}); err != nil {
		t.Fatal(err)
	}
	w.volumeIs("archive", volumeFailed)
	w.disconnect(hostA)
	if v := w.volumesNamed("archive")[0]; !strings.Contains(v.GetAlert(), "the agent of host-a is down") {
		t.Errorf("it is %v", v)
	}
	hostA.failAt("place archive 1048576", "")
	w.kill()
	w.live()
	w.volumeIs("archive", volumeReady)
}

func TestTasksOfAVolumeThatStandsAlone(t *testing.T) {
	w := newWorld(t)
	hostA, _ := w.site("a")
	w.ready("archive", "a")
	run := func(task *pb.VolumeTask) error {
		stream, err := w.as(asOperator).RunVolumeTask(w.ctx(), connect.NewRequest(&pb.RunVolumeTaskRequest{Task: task}))
		if err != nil {
			return err
		}
		defer func() { _ = stream.Close() }()
		for stream.Receive() {
		}
		return stream.Err()
	}
	if err := run(&pb.VolumeTask{Volume: "archive", Verb: pb.VolumeVerb_VOLUME_VERB_VERIFY}); err != nil || hostA.count("VOLUME_VERB_VERIFY") != 1 {
		t.Errorf("verify: %v", err)
	}
	if err := run(&pb.VolumeTask{Volume: "archive", Verb: pb.VolumeVerb_VOLUME_VERB_EXPORT, Transfer: strings.Repeat("a1", 16)}); err != nil || hostA.count("VOLUME_VERB_EXPORT") != 1 {
		t.Errorf("export: %v", err)
	}
	refused(t, run(&pb.VolumeTask{Volume: "archive", Verb: pb.VolumeVerb_VOLUME_VERB_SNAPSHOT, Snapshot: "now"}), connect.CodeFailedPrecondition, "has no replica", "volume export archive")
	refused(t, run(&pb.VolumeTask{Volume: "none", Verb: pb.VolumeVerb_VOLUME_VERB_VERIFY}), connect.CodeNotFound, `no volume "none"`)
	refused(t, run(nil), connect.CodeInvalidArgument, "no task")
}
