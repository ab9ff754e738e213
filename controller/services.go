package controller

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/godwit-project/godwit/api"
	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
)

// startTimeout bounds one attempt to start or delete a service; image imports take the longest.
const startTimeout = 10 * time.Minute

// services creates, starts and deletes services. What is wanted stands in the store; reconcile makes it true, and may be
// repeated at any time, by any controller.
type services struct {
	store   *ledger
	agents  *agents
	blobs   *blobs
	volumes *volumes
	logger  *slog.Logger

	work  context.Context // ends with the controller
	wg    *sync.WaitGroup
	turns *turns
	// replicas is entered by who tells agents of the replication of a service.
	replicas oneByOne
}

// newServices wires them to the volumes that stand alone.
func newServices(work context.Context, wg *sync.WaitGroup, store *ledger, a *agents, b *blobs, logger *slog.Logger) *services {
	s := &services{store: store, agents: a, blobs: b, logger: logger, work: work, wg: wg}
	s.turns = &turns{settle: s.settle, kind: "service", logger: logger, work: work, wg: wg}
	s.volumes = &volumes{store: store, agents: a, blobs: b, logger: logger}
	s.volumes.turns = &turns{settle: s.volumes.settle, kind: "volume", logger: logger, work: work, wg: wg}
	return s
}

// invalid is the error of a field that cannot be as it is.
func invalid(format string, args ...any) error {
	return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf(format, args...))
}

func precondition(format string, args ...any) error {
	return connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf(format, args...))
}

// check finds what is wrong with a specification by itself, and fills in what users may leave out.
func (s *services) check(ctx context.Context, spec *pb.ServiceSpec) error {
	if !api.IsName(spec.GetName()) {
		return invalid("name %q: want lower-case letters, digits and dashes, at most 40, not beginning or ending with a dash", spec.GetName())
	}
	if spec.GetNetwork() == "" {
		spec.Network = "default"
	}
	if spec.GetServer() == nil {
		return invalid("service %s has no server", spec.GetName())
	}
	if spec.Server.GetCpus() == 0 {
		spec.Server.Cpus = 1
	}
	if spec.Server.GetCpus() < 1 || spec.Server.GetCpus() > 256 {
		return invalid("server.cpus is %d: want 1 to 256", spec.Server.GetCpus())
	}
	const mib = 1 << 20
	if m := spec.Server.GetMemory(); m < 16*mib || m%mib != 0 {
		return invalid("server.memory is %d bytes: want at least 16MiB, in whole MiB", m)
	}
	if spec.Server.GetKernel() == "" && len(spec.GetVolumes()) == 0 {
		return invalid("service %s has neither a kernel nor a volume to boot from", spec.GetName())
	}
	for field, blob := range map[string]string{"server.kernel": spec.Server.GetKernel(), "server.initrd": spec.Server.GetInitrd()} {
		if blob != "" && !s.blobs.has(blob) {
			return invalid("%s: no blob %q has been uploaded", field, blob)
		}
	}
	if err := s.volumes.fill(ctx, spec.GetVolumes()); err != nil {
		return err
	}
	if err := s.checkVolumes(spec.GetVolumes()); err != nil {
		return err
	}
	if err := checkStorage(spec); err != nil {
		return err
	}
	for _, a := range spec.GetAddresses() {
		addr, err := netip.ParseAddr(a)
		if err != nil || !addr.Is4() || !addr.IsGlobalUnicast() {
			return invalid("addresses: %q is not an IPv4 unicast address", a)
		}
	}
	spec.Server.Mac = macOf(spec.GetNetwork(), spec.GetName())
	return nil
}

func (s *services) checkVolumes(volumes []*pb.VolumeSpec) error {
	seen, used := make(map[string]bool), make(map[string]bool)
	for _, v := range volumes {
		disk := v.GetVolume() + v.GetExternal()
		switch {
		case !api.IsName(v.GetName()):
			return invalid("volumes: name %q: want lower-case letters, digits and dashes", v.GetName())
		case seen[v.GetName()]:
			return invalid("volumes: the name %q is there twice", v.GetName())
		case disk != "" && used[disk]:
			return invalid("volume %s: %s is there twice", v.GetName(), disk)
		case v.GetExternal() != "" && (v.GetVolume() != "" || v.GetImage() != "" || v.GetSize() != 0):
			return invalid("volume %s is external: it has the size and the content that it has", v.GetName())
		case v.GetExternal() != "" && (!path.IsAbs(v.GetExternal()) || path.Clean(v.GetExternal()) != v.GetExternal()):
			return invalid("volume %s: external is %q: want an absolute path, without dots", v.GetName(), v.GetExternal())
		case v.GetVolume() != "" && v.GetImage() != "":
			return invalid("volume %s is volume %s, which has its content\nhint: godwit volume import FILE %s replaces that", v.GetName(), v.GetVolume(), v.GetVolume())
		case v.GetExternal() == "" && (v.GetSize() <= 0 || v.GetSize()%4096 != 0):
			return invalid("volume %s: size is %d bytes: want a positive multiple of 4096", v.GetName(), v.GetSize())
		case v.GetImage() != "" && !s.blobs.has(v.GetImage()):
			return invalid("volume %s: no blob %q has been uploaded", v.GetName(), v.GetImage())
		}
		if err := checkDevices(v); err != nil {
			return err
		}
		seen[v.GetName()], used[disk] = true, true
	}
	return apart(volumes)
}

// macOf derives a locally administered address, so that a service keeps it wherever it runs.
func macOf(network, name string) string {
	h := sha256.Sum256([]byte(network + "/" + name))
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", h[0], h[1], h[2])
}

// apply creates the service, or says that it is there as asked.
func (s *services) apply(ctx context.Context, asked *pb.ServiceSpec) (outcome string, err error) {
	spec := proto.Clone(asked).(*pb.ServiceSpec)
	if err := s.check(ctx, spec); err != nil {
		return "", err
	}
	var existing serviceRecord
	_, err = load(ctx, s.store, servicePrefix+spec.GetName(), &existing)
	switch {
	case err == nil:
		return s.compare(ctx, spec, existing)
	case !errors.Is(err, cluster.ErrNotFound):
		return "", err
	}
	attaching, err := s.volumes.free(ctx, spec)
	if err != nil {
		return "", err
	}
	host, edge, err := s.choose(ctx, spec, "", attaching.host)
	if err != nil {
		return "", err
	}
	if err := pin(spec, host); err != nil {
		return "", err
	}
	if err := s.create(ctx, spec, host, edge, attaching); err != nil {
		return "", err
	}
	s.reconcile(spec.GetName())
	return "created", nil
}

// compare says whether an existing service is as asked. Of what differs, only the replication can be changed while it runs.
func (s *services) compare(ctx context.Context, spec *pb.ServiceSpec, existing serviceRecord) (string, error) {
	if existing.Phase == serviceDeleting {
		return "", precondition("service %s is being deleted\nhint: wait until godwit get services no longer shows it", spec.GetName())
	}
	old, err := existing.spec()
	if err != nil {
		return "", err
	}
	// The site of the manifest is where it was started; a migration does not make the manifest wrong.
	from := spec.GetSite()
	spec.Site, spec.Server.MachineType, spec.Server.CpuModel = old.GetSite(), old.Server.GetMachineType(), old.Server.GetCpuModel()
	asked := spec.GetStorage()
	spec.Storage = old.GetStorage()
	if !proto.Equal(spec, old) {
		return "", precondition("service %s exists and is different\nhint: a running service cannot be changed, but for storage; godwit delete service %s, then apply again", spec.GetName(), spec.GetName())
	}
	outcome := "unchanged"
	if !proto.Equal(asked, old.GetStorage()) {
		if err := s.changeStorage(ctx, spec.GetName(), from, asked); err != nil {
			return "", err
		}
		outcome = "configured"
	}
	if existing.Phase != serviceRunning || outcome != "unchanged" || existing.Replica.Error != "" {
		s.reconcile(spec.GetName())
	}
	return outcome, nil
}

// create writes the service, its addresses and its owner in one step.
func (s *services) create(ctx context.Context, spec *pb.ServiceSpec, host, edge agentState, attaching attachment) error {
	epoch, err := s.store.NextEpoch(ctx)
	if err != nil {
		return err
	}
	raw, err := protojson.Marshal(spec)
	if err != nil {
		return fmt.Errorf("encode service %s: %w", spec.GetName(), err)
	}
	record, err := encode(serviceRecord{Spec: raw, Phase: serviceStarting})
	if err != nil {
		return err
	}
	owner, err := cluster.Owner{Service: spec.GetName(), Site: host.Site, Host: host.Name, Epoch: epoch}.Encode()
	if err != nil {
		return err
	}
	compares := []cluster.Compare{{Key: servicePrefix + spec.GetName()}, {Key: cluster.OwnerKey(spec.GetName())}}
	ops := []cluster.Op{{Key: servicePrefix + spec.GetName(), Value: record}, {Key: cluster.OwnerKey(spec.GetName()), Value: owner}}
	compares, ops = append(compares, attaching.unchanged...), append(ops, attaching.ops...)
	for _, a := range spec.GetAddresses() {
		key := addressPrefix + spec.GetNetwork() + "/" + a
		compares = append(compares, cluster.Compare{Key: key})
		ops = append(ops, cluster.Op{Key: key, Value: []byte(spec.GetName())})
	}
	for _, key := range externalKeys(spec) {
		compares, ops = append(compares, cluster.Compare{Key: key}), append(ops, cluster.Op{Key: key, Value: []byte(spec.GetName())})
	}
	if _, err := s.store.Txn(ctx, compares, ops); err != nil {
		if !errors.Is(err, cluster.ErrConflict) {
			return err
		}
		return s.explainConflict(ctx, spec)
	}
	return nil
}

// explainConflict finds out which condition of create did not hold.
func (s *services) explainConflict(ctx context.Context, spec *pb.ServiceSpec) error {
	for _, a := range spec.GetAddresses() {
		o, err := s.store.Get(ctx, addressPrefix+spec.GetNetwork()+"/"+a)
		if err == nil {
			return connect.NewError(connect.CodeAlreadyExists, fmt.Errorf("address %s belongs to service %s already, in network %s\nhint: choose another address, or delete that service", a, o.Value, spec.GetNetwork()))
		}
	}
	if _, err := s.volumes.free(ctx, spec); err != nil {
		return err
	}
	for _, key := range externalKeys(spec) {
		if o, err := s.store.Get(ctx, key); err == nil {
			return connect.NewError(connect.CodeAlreadyExists, fmt.Errorf("external disk %s is in use by service %s\nhint: one service uses it at a time", strings.TrimPrefix(key, externalPrefix), o.Value))
		}
	}
	return connect.NewError(connect.CodeAborted, fmt.Errorf("service %s was changed by somebody else at the same moment\nhint: apply again", spec.GetName()))
}

// pin fixes the machine type and the CPU model at the first start, so that the machine can only ever meet equal ones.
func pin(spec *pb.ServiceSpec, host agentState) error {
	f := host.Facts
	if len(f.GetMachineTypes()) == 0 || len(f.GetCpuModels()) == 0 {
		return precondition("host %s names no machine type or CPU model: %s", host.Name, f.GetProblem())
	}
	spec.Server.MachineType, spec.Server.CpuModel = f.GetMachineTypes()[0], f.GetCpuModels()[0]
	return nil
}

// reconcile works, in the background, on making the service what the store says. One at a time per service.
func (s *services) reconcile(name string) { s.turns.take(name) }

// resume goes on with what a dead controller had begun.
func (s *services) resume(ctx context.Context) error {
	records, err := list[serviceRecord](ctx, s.store, servicePrefix)
	if err != nil {
		return err
	}
	for _, r := range records {
		spec, err := r.spec()
		if err != nil {
			return err
		}
		if r.Phase != serviceRunning || spec.GetStorage() != nil || r.Replica.Host != "" {
			s.reconcile(spec.GetName())
		}
	}
	return s.volumes.resume(ctx, "")
}

func notFound(kind, name string) error {
	return connect.NewError(connect.CodeNotFound, fmt.Errorf("there is no %s %q\nhint: godwit get %ss lists them", kind, name, strings.TrimSuffix(kind, "s")))
}
