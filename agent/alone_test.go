package agent

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/storage"
)

// standing is a host with a volume that stands alone, made under epoch 5, which holds content.
func standing(t *testing.T, content []byte) *end {
	t.Helper()
	e := openEnd(t, t.TempDir())
	if err := e.place(t.Context(), &pb.PlaceVolume{Name: "archive", Epoch: 5, Size: volumeSize}); err != nil {
		t.Fatal(err)
	}
	e.imported("archive", content)
	return e
}

func (e *end) imported(name string, content []byte) {
	e.t.Helper()
	path := filepath.Join(e.t.TempDir(), "image.raw")
	v, err := e.store.Volume(name)
	if err := errors.Join(err, os.WriteFile(path, content, 0o600)); err != nil {
		e.t.Fatal(err)
	}
	if err := v.Import(e.t.Context(), path, nil); err != nil {
		e.t.Fatal(err)
	}
}

// uses is the service's part that concerns volumes: start, and stop under a later epoch.
func (e *end) uses(epoch uint64) error {
	return e.startVolume(e.t.Context(), "shop", &pb.VolumeSpec{Name: "data", Volume: "archive", Size: volumeSize}, epoch)
}

func (e *end) leaves(epoch uint64, keep bool) error {
	spec := &pb.ServiceSpec{Name: "shop", Volumes: []*pb.VolumeSpec{{Name: "data", Volume: "archive", Size: volumeSize}}}
	return e.leave(e.t.Context(), &pb.StopService{Service: "shop", Epoch: epoch, Spec: spec, Keep: keep})
}

func TestAVolumeStandsAloneAndIsKept(t *testing.T) {
	content := random(1 << 20)
	e := standing(t, content)
	if h := e.observe(t.Context(), ""); h == nil || len(h.GetVolumes()) != 1 || h.GetVolumes()[0].GetName() != "archive" {
		t.Errorf("the host tells %v", h)
	}
	if h := e.volumes("archive"); len(h) != 0 {
		t.Errorf("a service of that name has %v", h)
	}
	if err := e.uses(9); err != nil {
		t.Fatal(err)
	}
	if err := e.leaves(12, true); err != nil {
		t.Fatal(err)
	}
	e.holds("archive", content)
	v, err := e.store.Volume("archive")
	if err != nil || v.Status().Epoch != 12 || v.Status().Socket != "" {
		t.Errorf("left, it is %v, %v", v.Status(), err)
	}
	if err := e.uses(14); err != nil {
		t.Errorf("another service: %v", err)
	}
	if err := e.leaves(16, false); err != nil {
		t.Fatal(err)
	}
	if _, err := e.store.Volume("archive"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("it was to go: %v", err)
	}
}

func TestWhatIsOlderThanTheUseOfAVolumeIsRefused(t *testing.T) {
	content := random(1 << 20)
	e := standing(t, content)
	if err := e.uses(9); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"an earlier service":        e.uses(7),
		"the end of an earlier one": e.leaves(8, false),
		"an earlier wish":           e.place(t.Context(), &pb.PlaceVolume{Name: "archive", Epoch: 4, Remove: true}),
		"a wish from before its use": e.place(t.Context(), &pb.PlaceVolume{
			Name: "archive", Epoch: 6, Remove: true,
		}),
	} {
		if !refuses(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	e.holds("archive", content)
}

func TestAServiceIsNotGivenAnEmptyVolumeForTheOneThatItNames(t *testing.T) {
	e := openEnd(t, t.TempDir())
	if err := e.uses(9); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("a volume that is not here: %v", err)
	}
	e = standing(t, nil)
	spec := &pb.VolumeSpec{Name: "data", Volume: "archive", Size: 2 * volumeSize}
	if err := e.startVolume(t.Context(), "shop", spec, 9); err == nil || !strings.Contains(err.Error(), "bytes here, not") {
		t.Errorf("another size: %v", err)
	}
}

func TestAVolumeThatStandsAloneGrowsOnceAndKeepsItsContent(t *testing.T) {
	content := random(1 << 20)
	e := standing(t, content)
	for range 2 {
		if err := e.place(t.Context(), &pb.PlaceVolume{Name: "archive", Epoch: 7, Size: 2 * volumeSize}); err != nil {
			t.Fatal(err)
		}
		e = e.restart()
	}
	if v := e.volumeOf("archive"); v.GetSize() != 2*volumeSize || v.GetEpoch() != 7 {
		t.Errorf("it is %v", v)
	}
	e.holds("archive", content)
	// A wish that is through is not fulfilled again, whatever it would do.
	if err := e.place(t.Context(), &pb.PlaceVolume{Name: "archive", Epoch: 7, Size: 2 * volumeSize, Image: "b3-none"}); err != nil {
		t.Errorf("again: %v", err)
	}
	task := &pb.VolumeTask{Volume: "archive", Names: []string{"archive"}, Verb: verify, Local: true}
	if r, err := e.volume(t.Context(), task, func(*pb.TaskProgress) {}); err != nil || r.GetCompared() != 2*volumeSize {
		t.Errorf("verify: %v, %v", r, err)
	}
	from, done, err := e.contentOf(&pb.VolumeTask{Volume: "archive", Names: []string{"archive"}})
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	got := make([]byte, len(content))
	if err := from.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, content) {
		t.Errorf("its export: %v", err)
	}
	for range 2 {
		if err := e.place(t.Context(), &pb.PlaceVolume{Name: "archive", Epoch: 8, Remove: true}); err != nil {
			t.Fatal(err)
		}
	}
	if h := e.observe(t.Context(), ""); h != nil {
		t.Errorf("left: %v", h)
	}
}

func TestAVolumeThatStandsAloneIsReplicatedAndTakenOverWithItsService(t *testing.T) {
	content := random(1 << 20)
	p := &pair{t: t, here: standing(t, content), there: openEnd(t, t.TempDir())}
	p.service = &pb.ServiceSpec{
		Name: "shop", Volumes: []*pb.VolumeSpec{{Name: "data", Volume: "archive", Size: volumeSize}, {Name: "log", External: "/nowhere"}},
		Storage: &pb.StorageSpec{ReplicateTo: "east", Mode: "sync"},
	}
	if err := p.here.uses(9); err != nil {
		t.Fatal(err)
	}
	p.protectedAs(p.here, p.there, 9, "archive")
	if v := p.there.volumeOf("archive"); v.GetRole() != storage.RoleReplica || v.GetMode() != modeStandby || !v.GetComplete() || v.GetService() != "" {
		t.Errorf("the replica is %v", v)
	}
	if v := p.here.volumeOf("archive"); v.GetMode() != "sync" || !v.GetConnected() {
		t.Errorf("the primary is %v", v)
	}
	if err := p.here.store.Unprotect(t.Context(), "shop", 10); err != nil {
		t.Fatal(err)
	}
	if err := p.there.takeOver(t.Context(), p.service, 12, ""); err != nil {
		t.Fatal(err)
	}
	p.there.holds("archive", content)
	if err := p.there.leaves(14, true); err != nil {
		t.Fatal(err)
	}
	if v := p.there.volumeOf("archive"); v.GetRole() != storage.RolePrimary || v.GetEpoch() != 14 {
		t.Errorf("left by its service it is %v", v)
	}
	former := &pb.ReplicateService{Service: p.service, Epoch: 12}
	if !p.here.former(former) {
		t.Error("the old owner's volume is not known as such")
	}
}
