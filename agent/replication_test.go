package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/storage"
	"github.com/godwit-project/godwit/wan"
)

// end is the half of a host that keeps volumes: no virtual server, no network. The link to the other end is a pipe.
type end struct {
	*host
	t   *testing.T
	dir string
}

func openEnd(t *testing.T, dir string) *end {
	t.Helper()
	e := &end{t: t, dir: dir}
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	book, err := openBook(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	store, err := storage.Open(filepath.Join(dir, "volumes"), storage.Options{Logger: logger, Backoff: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	shelf, err := openBook(filepath.Join(dir, "shelf"))
	if err != nil {
		t.Fatal(err)
	}
	external, err := storage.OpenExternals(filepath.Join(dir, "external"), storage.Options{Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	e.host = &host{hostConfig: hostConfig{dir: dir, book: book, logger: logger}, store: store, shelf: shelf, external: external}
	t.Cleanup(func() { _ = errors.Join(external.Close(), store.Close()) })
	return e
}

// restart is what a killed and a new agent do.
func (e *end) restart() *end {
	e.t.Helper()
	if err := errors.Join(e.external.Close(), e.store.Close()); err != nil {
		e.t.Fatal(err)
	}
	return openEnd(e.t, e.dir)
}

// pair is a primary here, whose standby is there.
type pair struct {
	t           *testing.T
	here, there *end
	service     *pb.ServiceSpec
}

const volumeSize = 8 << 20

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{t: t, here: openEnd(t, t.TempDir()), there: openEnd(t, t.TempDir())}
	p.service = &pb.ServiceSpec{
		Name: "shop", Volumes: []*pb.VolumeSpec{{Name: "root", Size: volumeSize}, {Name: "log", Size: volumeSize}},
		Storage: &pb.StorageSpec{ReplicateTo: "east", Mode: "sync"},
	}
	for _, v := range p.service.GetVolumes() {
		if _, err := p.here.store.Create(t.Context(), storage.Spec{Name: volumeName("shop", v), Size: v.GetSize()}, 5); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func wish(service *pb.ServiceSpec, epoch, serial uint64, role pb.ReplicaRole) *pb.ReplicateService {
	return &pb.ReplicateService{
		Service: proto.Clone(service).(*pb.ServiceSpec), Epoch: epoch, Serial: serial, Role: role, Replica: &pb.Place{Site: "east", HostAddress: "192.0.2.1:1"},
	}
}

// protected connects both ends as the two wishes would, but for the network between.
func (p *pair) protected(from, to *end, epoch uint64) *storage.Group {
	p.t.Helper()
	if err := to.replicate(p.t.Context(), wish(p.service, epoch, epoch, pb.ReplicaRole_REPLICA_ROLE_STANDBY)); err != nil {
		p.t.Fatal(err)
	}
	return p.group(from, to, epoch, "shop.root", "shop.log")
}

// protectedAs is protected for other volumes.
func (p *pair) protectedAs(from, to *end, epoch uint64, volumes ...string) {
	p.t.Helper()
	if err := to.replicate(p.t.Context(), wish(p.service, epoch, epoch, pb.ReplicaRole_REPLICA_ROLE_STANDBY)); err != nil {
		p.t.Fatal(err)
	}
	p.group(from, to, epoch, volumes...)
}

func (p *pair) group(from, to *end, epoch uint64, volumes ...string) *storage.Group {
	p.t.Helper()
	spec := storage.GroupSpec{Name: "shop", Epoch: epoch, Mode: p.service.GetStorage().GetMode(), Volumes: volumes}
	g, err := from.store.Protect(p.t.Context(), spec, func(ctx context.Context) (net.Conn, error) {
		b, err := to.store.Standby("shop")
		if err != nil {
			return nil, err
		}
		near, far := net.Pipe()
		go func() { _ = b.Serve(context.WithoutCancel(ctx), far) }()
		return near, nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), soon)
	defer cancel()
	if err := g.SetMode(ctx, p.service.GetStorage().GetMode()); err != nil {
		p.t.Fatal(err)
	}
	return g
}

// fill imports content, which needs no client, before the replication begins.
func (p *pair) fill(content []byte) {
	p.t.Helper()
	path := filepath.Join(p.t.TempDir(), "image.raw")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		p.t.Fatal(err)
	}
	for _, v := range p.service.GetVolumes() {
		volume, err := p.here.store.Volume(volumeName("shop", v))
		if err != nil {
			p.t.Fatal(err)
		}
		if err := volume.Import(p.t.Context(), path, nil); err != nil {
			p.t.Fatal(err)
		}
	}
}

// holds compares the raw base with what was imported.
func (e *end) holds(volume string, content []byte) {
	e.t.Helper()
	v, err := e.store.Volume(volume)
	if err != nil {
		e.t.Fatal(err)
	}
	got, err := os.ReadFile(v.Status().Path)
	if err != nil {
		e.t.Fatal(err)
	}
	if !bytes.Equal(got[:len(content)], content) {
		e.t.Errorf("%s does not hold what was written", volume)
	}
}

func random(n int) []byte {
	p := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

func (e *end) volumeOf(name string) *pb.Volume {
	e.t.Helper()
	for _, v := range append(e.volumes("shop"), e.volumes("")...) {
		if v.GetName() == name {
			return v
		}
	}
	e.t.Fatalf("there is no volume %s", name)
	return nil
}

func TestBothEndsOfAReplicationSayWhereTheyStand(t *testing.T) {
	p := newPair(t)
	p.fill(random(3 << 20))
	p.protected(p.here, p.there, 5)
	near := p.here.volumeOf("shop.root")
	if near.GetMode() != "sync" || near.GetWanted() != "sync" || !near.GetConnected() || near.GetRole() != "primary" || near.GetLag() != 0 {
		t.Errorf("the primary says %v", near)
	}
	far := p.there.volumeOf("shop.log")
	if far.GetMode() != modeStandby || !far.GetComplete() || far.GetPoint() == 0 || far.GetRole() != "replica" || far.GetEpoch() != 5 {
		t.Errorf("the replica says %v", far)
	}
}

func TestAStreamOfAnotherEpochIsNotLetIn(t *testing.T) {
	p := newPair(t)
	p.protected(p.here, p.there, 5)
	for service, epoch := range map[string]uint64{"shop": 4, "other": 5} {
		if _, err := p.there.acceptGroup(t.Context(), wan.Hello{Service: service, Epoch: epoch}, tls.ConnectionState{}); err == nil {
			t.Errorf("a stream of %s at epoch %d is let in", service, epoch)
		}
	}
}

func TestWhatAnAgentWasToReplicateItGoesOnWithAfterARestart(t *testing.T) {
	p := newPair(t)
	if err := p.here.replicate(t.Context(), wish(p.service, 5, 6, pb.ReplicaRole_REPLICA_ROLE_SOURCE)); err != nil {
		t.Fatal(err)
	}
	if err := p.there.replicate(t.Context(), wish(p.service, 5, 6, pb.ReplicaRole_REPLICA_ROLE_STANDBY)); err != nil {
		t.Fatal(err)
	}
	p.here, p.there = p.here.restart(), p.there.restart()
	p.here.resumeReplication(t.Context())
	p.there.resumeReplication(t.Context())
	if g, err := p.here.store.Group("shop"); err != nil || g.Status().Wanted != "sync" {
		t.Errorf("the primary is not replicated: %v", err)
	}
	if b, err := p.there.store.Standby("shop"); err != nil || b.Status().Epoch != 5 {
		t.Errorf("the standby is gone: %v", err)
	}
	for _, e := range []*end{p.here, p.there} {
		if err := e.replicate(t.Context(), wish(p.service, 7, 7, pb.ReplicaRole_REPLICA_ROLE_UNSPECIFIED)); err != nil {
			t.Fatal(err)
		}
		e = e.restart()
		e.resumeReplication(t.Context())
		if len(e.store.Groups())+len(e.store.Standbys()) != 0 {
			t.Error("what was ended has begun again")
		}
	}
}

// The whole of a failover as the two hosts see it: the replica takes over, and what was the owner follows it.
func TestAReplicaTakesOverAndTheFormerOwnerBecomesItsReplica(t *testing.T) {
	p := newPair(t)
	content := random(3 << 20)
	p.fill(content)
	p.protected(p.here, p.there, 5)
	if err := p.here.store.Close(); err != nil { // the site is lost
		t.Fatal(err)
	}
	for range 2 { // it may be asked again
		if err := p.there.takeOver(t.Context(), p.service, 8, ""); err != nil {
			t.Fatal(err)
		}
	}
	p.there = p.there.restart()
	if err := p.there.takeOver(t.Context(), p.service, 8, ""); err != nil {
		t.Fatal(err)
	}
	if err := p.there.takeOver(t.Context(), p.service, 9, ""); err == nil {
		t.Error("volumes of another epoch are taken for a replica that was promoted")
	}
	for _, v := range []string{"shop.root", "shop.log"} {
		if st := p.there.volumeOf(v); st.GetRole() != "primary" || st.GetEpoch() != 8 {
			t.Errorf("%s is %v", v, st)
		}
		p.there.holds(v, content)
	}

	p.here = openEnd(t, p.here.dir)
	back := wish(p.service, 8, 10, pb.ReplicaRole_REPLICA_ROLE_STANDBY)
	if !p.here.former(back) {
		t.Fatal("the former owner is not known as one")
	}
	for range 2 {
		if err := errors.Join(p.here.overtake("shop", 8), p.here.demote(t.Context(), back)); err != nil {
			t.Fatal(err)
		}
	}
	if p.here.former(back) {
		t.Error("a demoted owner is still taken for one")
	}
	st := p.here.volumeOf("shop.root")
	if st.GetRole() != "replica" || st.GetEpoch() != 8 || !st.GetComplete() {
		t.Errorf("the former owner is %v", st)
	}
	found, err := p.here.volume(t.Context(), &pb.VolumeTask{Service: "shop", Verb: pb.VolumeVerb_VOLUME_VERB_LIST_SNAPSHOTS}, nil)
	if err != nil || len(found.GetSnapshots()) != 1 || found.GetSnapshots()[0].GetName() != tailSnapshot(8) {
		t.Errorf("what it held is kept as %v, %v", found, err)
	}
	g := p.protected(p.there, p.here, 8)
	if st := g.Status(); st.Shipped > volumeSize/8 {
		t.Errorf("%d bytes were shipped back although nothing had changed", st.Shipped)
	}
	// What was started under the old epoch is not started any more.
	p.here.book.view("shop", func(e entry) {
		if e.Journal.Epoch != 8 || e.Home != 0 || e.Spec != nil {
			t.Errorf("the book says %+v", e)
		}
	})
}

func TestAnIncompleteReplicaDoesNotTakeOver(t *testing.T) {
	p := newPair(t)
	if err := p.there.replicate(t.Context(), wish(p.service, 5, 5, pb.ReplicaRole_REPLICA_ROLE_STANDBY)); err != nil {
		t.Fatal(err)
	}
	if err := p.there.takeOver(t.Context(), p.service, 8, ""); err == nil || !strings.Contains(err.Error(), "first copy") {
		t.Errorf("it took over: %v", err)
	}
}

// A volume that came from elsewhere is never filled with its image again, whoever starts the service here.
func TestAnImageIsNotImportedOverAVolumeThatCameFromElsewhere(t *testing.T) {
	e := openEnd(t, t.TempDir())
	spec := &pb.VolumeSpec{Name: "root", Size: volumeSize, Image: "b3-" + strings.Repeat("ab", 32)}
	v, err := e.store.CreateReplica(t.Context(), storage.Spec{Name: "shop.root", Size: volumeSize}, 5)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Serve(e.socket("shop.root")); err != nil {
		t.Fatal(err)
	}
	if err := e.startVolume(t.Context(), "shop", spec, 5); err != nil {
		t.Errorf("it was to be imported: %v", err)
	}
	fresh := &pb.VolumeSpec{Name: "new", Size: volumeSize}
	if err := e.startVolume(t.Context(), "shop", fresh, 5); err != nil {
		t.Fatal(err)
	}
}

// The end of a replication may be on its way when a failover makes the replica the owner, and the old owner the replica: with a serial
// that is newer than that wish's.
func TestTheReplicaOfANewerOwnerIsNotEnded(t *testing.T) {
	p := newPair(t)
	p.protected(p.here, p.there, 7)
	ended := pb.ReplicaRole_REPLICA_ROLE_UNSPECIFIED
	if err := p.there.replicate(t.Context(), wish(p.service, 5, 9, ended)); !errors.Is(err, storage.ErrStale) || !refuses(err) {
		t.Errorf("under epoch 5: %v", err)
	}
	if p.there.volumeOf("shop.log").GetEpoch() != 7 {
		t.Error("the replica is another one")
	}
	p.there.book.view("shop", func(e entry) {
		if e.Replication == nil {
			t.Error("what was wished of it is forgotten")
		}
	})
	if err := p.there.replicate(t.Context(), wish(p.service, 7, 9, ended)); err != nil {
		t.Errorf("under its own epoch: %v", err)
	}
	if left := p.there.volumes("shop"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
