package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/migration"
	"github.com/godwit-project/godwit/storage"
	"github.com/godwit-project/godwit/wan"
)

// shared is a service with one disk that both hosts reach, which runs here under epoch 5.
type shared struct {
	t           *testing.T
	here, there *end
	service     *pb.ServiceSpec
}

func newShared(t *testing.T) *shared {
	t.Helper()
	s := &shared{t: t, here: openEnd(t, t.TempDir()), there: openEnd(t, t.TempDir())}
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	s.service = &pb.ServiceSpec{Name: "shop", Volumes: []*pb.VolumeSpec{{Name: "data", External: path}}}
	for _, e := range []*end{s.here, s.there} {
		e.meter = new(wan.Meter)
	}
	if err := s.here.startVolume(t.Context(), "shop", s.service.GetVolumes()[0], 5); err != nil {
		t.Fatal(err)
	}
	return s
}

// steps carries out the storage's part of an attempt, at the end that each step is for.
func (s *shared) steps(epoch uint64, ids ...migration.StepID) {
	s.t.Helper()
	for _, id := range ids {
		e := s.here
		if id.Role() == migration.Destination {
			e = s.there
		}
		step := &pb.MigrationStep{Service: s.service, Epoch: epoch, Step: string(id), Destination: new(pb.Place)}
		if _, err := e.step(s.t.Context(), step, id, func(*pb.TaskProgress) {}); err != nil {
			s.t.Fatalf("%s: %v", id, err)
		}
	}
}

// is compares what users see of the disk at an end.
func (s *shared) is(e *end, role string) {
	s.t.Helper()
	all := e.volumes("shop")
	if role == "" {
		if len(all) != 0 {
			s.t.Errorf("left: %v", all)
		}
		return
	}
	if len(all) != 1 || all[0].GetRole() != role || all[0].GetBacking() != backingExternal || all[0].GetMode() != storage.ModeExternal || all[0].GetLag() != 0 {
		s.t.Errorf("it is %v, want %s", all, role)
	}
}

func TestAnExternalDiskMovesWithoutBeingCopied(t *testing.T) {
	s := newShared(t)
	s.steps(9, "storage/destination/prepare", "storage/source/prepare", "storage/source/converge", "storage/source/synchronize")
	s.is(s.here, storage.RolePrimary)
	s.is(s.there, storage.RoleWaiting)
	s.steps(9, "storage/source/quiesce", "storage/destination/quiesce")
	s.is(s.here, storage.RoleFenced)
	s.steps(9, "storage/destination/commit", "storage/source/release", "storage/destination/release")
	s.is(s.here, "")
	s.is(s.there, storage.RolePrimary)
	if used := s.there.store.Volumes(); len(used) != 0 {
		t.Errorf("it was copied into %v", used)
	}
}

func TestAnExternalDiskStaysWhenItsMoveIsGivenUp(t *testing.T) {
	s := newShared(t)
	s.steps(9, "storage/destination/prepare", "storage/source/prepare", "storage/source/quiesce", "storage/source/abort", "storage/destination/abort")
	s.is(s.here, storage.RolePrimary)
	s.is(s.there, "")
	if got := s.here.externals("shop")[0].GetEpoch(); got != 5 {
		t.Errorf("it is at epoch %d", got)
	}
}

func TestAnExternalDiskIsLeftToWhomTheServiceBelongs(t *testing.T) {
	s := newShared(t)
	if err := s.here.leave(t.Context(), &pb.StopService{Service: "shop", Spec: s.service, Epoch: 4}); !refuses(err) {
		t.Errorf("an older end: %v", err)
	}
	s.is(s.here, storage.RolePrimary)
	if err := s.here.leave(t.Context(), &pb.StopService{Service: "shop", Spec: s.service, Epoch: 8}); err != nil {
		t.Fatal(err)
	}
	s.is(s.here, "")
	if err := s.there.startVolume(t.Context(), "shop", s.service.GetVolumes()[0], 9); err != nil {
		t.Fatal(err)
	}
	s.is(s.there, storage.RolePrimary)
	if _, err := os.Stat(s.service.GetVolumes()[0].GetExternal()); err != nil {
		t.Errorf("the disk is gone: %v", err)
	}
}

func TestOfAnExternalDiskIsSaidWhatCannotBeDone(t *testing.T) {
	s := newShared(t)
	s.here.refuses(&pb.VolumeTask{Verb: verify, Volume: "data", Names: []string{"shop.data"}, Local: true}, "external disks have no checksums here")
	if files := s.here.does(&pb.VolumeTask{Verb: locate}).GetFiles(); len(files) != 1 || files[0].GetPath() != s.service.GetVolumes()[0].GetExternal() {
		t.Errorf("it is at %v", files)
	}
	gone := &pb.VolumeSpec{Name: "more", External: filepath.Join(t.TempDir(), "none")}
	if err := s.here.startVolume(t.Context(), "shop", gone, 5); err == nil || !strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("a disk that is not there: %v", err)
	}
}
