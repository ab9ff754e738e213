package agent

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/godwit-project/godwit/api"
	pb "github.com/godwit-project/godwit/api/godwit/v1"
)

const (
	locate     = pb.VolumeVerb_VOLUME_VERB_LOCATE
	verify     = pb.VolumeVerb_VOLUME_VERB_VERIFY
	snapshot   = pb.VolumeVerb_VOLUME_VERB_SNAPSHOT
	list       = pb.VolumeVerb_VOLUME_VERB_LIST_SNAPSHOTS
	unsnapshot = pb.VolumeVerb_VOLUME_VERB_DELETE_SNAPSHOT
	export     = pb.VolumeVerb_VOLUME_VERB_EXPORT
)

func (e *end) does(task *pb.VolumeTask) *pb.VolumeResult {
	e.t.Helper()
	task.Service = "shop"
	r, err := e.volume(e.t.Context(), task, func(*pb.TaskProgress) {})
	if err != nil {
		e.t.Fatalf("%s: %v", task.GetVerb(), err)
	}
	return r
}

func (e *end) refuses(task *pb.VolumeTask, text string) {
	e.t.Helper()
	task.Service = "shop"
	if _, err := e.volume(e.t.Context(), task, func(*pb.TaskProgress) {}); err == nil || !strings.Contains(err.Error(), text) {
		e.t.Errorf("%s: %v, want %q", task.GetVerb(), err, text)
	}
}

// flip changes a byte of a raw disk, as a bad medium would.
func (e *end) flip(volume string, at int64) {
	e.t.Helper()
	f, err := os.OpenFile(e.volumeOf(volume).GetPath(), os.O_RDWR, 0)
	if err != nil {
		e.t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		e.t.Fatal(err)
	}
	b[0] ^= 1
	_, err = f.WriteAt(b, at)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		e.t.Fatal(err)
	}
}

func TestVolumesAreLocated(t *testing.T) {
	p := newPair(t)
	if all := p.here.does(&pb.VolumeTask{Verb: locate}).GetFiles(); len(all) != 2 || all[0].GetSize() != volumeSize {
		t.Errorf("the volumes are at %v", all)
	}
	one := p.here.does(&pb.VolumeTask{Verb: locate, Volume: "log"}).GetFiles()
	if len(one) != 1 || one[0].GetVolume() != "shop.log" || one[0].GetPath() != p.here.volumeOf("shop.log").GetPath() {
		t.Errorf("the volume is at %v", one)
	}
	p.here.refuses(&pb.VolumeTask{Verb: locate, Volume: "other"}, "volume other of service shop is not here")
	p.here.refuses(&pb.VolumeTask{Verb: 99}, "install the same godwit everywhere")
}

func TestWithoutAReplicaTheErrorsSaySo(t *testing.T) {
	p := newPair(t)
	for _, verb := range []pb.VolumeVerb{verify, snapshot, list, unsnapshot} {
		p.here.refuses(&pb.VolumeTask{Verb: verb, Snapshot: "s"}, "not replicated")
	}
	p.here.refuses(&pb.VolumeTask{Verb: export, Volume: "root", Snapshot: "s"}, "not replicated")
}

func TestAFlippedByteAtTheReplicaIsFoundAndRepaired(t *testing.T) {
	p := newPair(t)
	p.fill(random(3 << 20))
	p.protected(p.here, p.there, 5)
	if r := p.here.does(&pb.VolumeTask{Verb: verify}); r.GetDiffering() != 0 || r.GetCompared() != 2*volumeSize {
		t.Fatalf("equal disks: %v", r)
	}
	p.there.flip("shop.log", 1<<20)
	r := p.here.does(&pb.VolumeTask{Verb: verify})
	if d := r.GetDifferences(); r.GetDiffering() != 1 || d[0].GetVolume() != "shop.log" || d[0].GetOffset() != 1<<20 {
		t.Errorf("a flipped byte is found as %v", r)
	}
	if r := p.here.does(&pb.VolumeTask{Verb: verify}); r.GetDiffering() != 0 {
		t.Errorf("it was not repaired: %v", r)
	}
}

func TestAFlippedByteIsFoundWithoutAReplica(t *testing.T) {
	p := newPair(t)
	p.fill(random(3 << 20))
	r := p.here.does(&pb.VolumeTask{Verb: verify, Local: true})
	if r.GetDiffering() != 0 || r.GetCompared() != 2*volumeSize || !r.GetLocal() {
		t.Fatalf("good disks: %v", r)
	}
	for _, at := range []int64{8192, 8192 + 4096, 2 << 20} {
		p.here.flip("shop.root", at)
	}
	r = p.here.does(&pb.VolumeTask{Verb: verify, Local: true})
	d := r.GetDifferences()
	if len(d) != 2 || d[0].GetVolume() != "shop.root" || d[0].GetOffset() != 8192 || d[0].GetLength() != 8192 || d[1].GetOffset() != 2<<20 {
		t.Errorf("flipped bytes are found as %v", r)
	}
	if r := p.here.does(&pb.VolumeTask{Verb: verify, Local: true, Volume: "log"}); r.GetDiffering() != 0 || r.GetCompared() != volumeSize {
		t.Errorf("the other volume: %v", r)
	}
}

func TestASnapshotIsMadeListedAndGivenUp(t *testing.T) {
	p := newPair(t)
	p.fill(random(1 << 20))
	p.protected(p.here, p.there, 5)
	p.here.does(&pb.VolumeTask{Verb: snapshot, Snapshot: "before", KeepSeconds: 60})
	found := p.there.kept("before")
	if len(found) != 1 || found[0].GetName() != "before" || found[0].GetPoint() == 0 || !found[0].GetUntil().AsTime().After(found[0].GetTime().AsTime()) {
		t.Fatalf("the snapshots are %v", found)
	}
	p.there.does(&pb.VolumeTask{Verb: unsnapshot, Snapshot: "before"})
	p.there.does(&pb.VolumeTask{Verb: unsnapshot, Snapshot: "before"})
	if found := p.there.does(&pb.VolumeTask{Verb: list}).GetSnapshots(); len(found) != 0 {
		t.Errorf("the snapshots are %v", found)
	}
}

// kept waits until a snapshot is there, which the owner has asked for, and lists all.
func (e *end) kept(name string) []*pb.VolumeSnapshot {
	e.t.Helper()
	for end := time.Now().Add(soon); time.Now().Before(end); time.Sleep(time.Millisecond) {
		all := e.does(&pb.VolumeTask{Verb: list}).GetSnapshots()
		if slices.ContainsFunc(all, func(s *pb.VolumeSnapshot) bool { return s.GetName() == name }) {
			return all
		}
	}
	e.t.Fatalf("snapshot %s is not kept", name)
	return nil
}

// taken is a controller that takes one transfer.
func (e *end) taken(answer int) *bytes.Buffer {
	out := new(bytes.Buffer)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, api.TransferPath) || r.Method != http.MethodPut {
			e.t.Errorf("%s %s", r.Method, r.URL.Path)
		}
		z, err := zstd.NewReader(r.Body)
		if err == nil {
			_, err = io.Copy(out, z)
			z.Close()
		}
		if err != nil {
			e.t.Error(err)
		}
		w.WriteHeader(answer)
	}))
	e.t.Cleanup(server.Close)
	e.link = &controller{base: server.URL, client: server.Client()}
	return out
}

func TestAVolumeIsExportedAsItWasAtASnapshot(t *testing.T) {
	p := newPair(t)
	content := random(3 << 20)
	p.fill(content)
	p.protected(p.here, p.there, 5)
	p.here.does(&pb.VolumeTask{Verb: snapshot, Snapshot: "then", KeepSeconds: 60})
	p.there.kept("then")
	got := p.there.taken(http.StatusOK)
	r := p.there.does(&pb.VolumeTask{Verb: export, Volume: "log", Snapshot: "then", Transfer: strings.Repeat("ab", 16)})
	if !r.GetConsistent() || r.GetSize() != volumeSize || got.Len() != volumeSize || !bytes.HasPrefix(got.Bytes(), content) {
		t.Errorf("it was exported as %v, %d bytes", r, got.Len())
	}
	p.there.refuses(&pb.VolumeTask{Verb: export, Volume: "log", Snapshot: "never"}, "no such cut")
	p.there.refuses(&pb.VolumeTask{Verb: export, Volume: "other", Snapshot: "then"}, "no such volume")

	// The one in use is no moment of the disk.
	got = p.here.taken(http.StatusOK)
	if r := p.here.does(&pb.VolumeTask{Verb: export, Volume: "root", Running: true}); r.GetConsistent() || !bytes.HasPrefix(got.Bytes(), content) {
		t.Errorf("it was exported as %v", r)
	}
	p.here.taken(http.StatusBadGateway)
	p.here.refuses(&pb.VolumeTask{Verb: export, Volume: "root", Running: true}, "the controller says 502")
}

func TestVolumesGrowAndAreMarkedToBeFilledBeforeARestart(t *testing.T) {
	p := newPair(t)
	content := random(1 << 20)
	p.fill(content)
	p.service.Volumes[0].Size = 2 * volumeSize
	start := &pb.StartService{Service: p.service, Epoch: 6, Restart: true, Refill: map[string]string{"log": "b3-none"}}
	for range 2 {
		if err := p.here.reshape(t.Context(), start); err != nil {
			t.Fatal(err)
		}
	}
	if v := p.here.volumeOf("shop.root"); v.GetSize() != 2*volumeSize {
		t.Errorf("it has not grown: %v", v)
	}
	p.here.holds("shop.root", content)
	p.here.book.view("shop", func(e entry) {
		if !slices.Equal(e.Importing, []string{"log"}) {
			t.Errorf("to be filled are %q", e.Importing)
		}
	})
	p.service.Volumes[0].Size = volumeSize
	if err := p.here.reshape(t.Context(), start); err == nil || !strings.Contains(err.Error(), "grow only") {
		t.Errorf("a volume shrinks: %v", err)
	}
}
