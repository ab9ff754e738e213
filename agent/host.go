package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/godwit-project/godwit/api"
	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/migration"
	"github.com/godwit-project/godwit/network"
	"github.com/godwit-project/godwit/server"
	"github.com/godwit-project/godwit/server/qemu"
	"github.com/godwit-project/godwit/storage"
	"github.com/godwit-project/godwit/wan"
)

type hostConfig struct {
	dir     string
	site    string
	qemu    string
	book    *book
	link    *controller
	dialer  *wan.Dialer
	meter   *wan.Meter
	notices chan<- *pb.Notice
	logger  *slog.Logger
}

// host runs virtual servers: it wires the platform, the volumes and the host's half of the network together.
type host struct {
	hostConfig
	platform *qemu.Platform
	store    *storage.Store
	net      *network.Host
	unwatch  func()
	imports  sync.Mutex
	external *storage.Externals
	reviver  *reviver
	slow     slowness
	checks   checkLines
	shelf    *book // of the volumes that stand alone: Serial and Home are the newest wish, and the newest that was fulfilled

	life       context.Context // ends with close
	end        context.CancelFunc
	background sync.WaitGroup

	probe struct {
		sync.Mutex
		capabilities server.Capabilities
		err          error
		done         bool
	}
}

// openHost takes up what the agent before this one left: volumes are served again first, because running machines wait
// for them.
func openHost(ctx context.Context, c hostConfig) (_ *host, err error) {
	h := &host{hostConfig: c}
	h.life, h.end = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	for _, sub := range []string{"volumes", "nbd", "blobs", "machines"} {
		if err := os.MkdirAll(filepath.Join(c.dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("agent directory: %w", err)
		}
	}
	if h.shelf, err = openBook(filepath.Join(c.dir, "shelf")); err != nil {
		return nil, err
	}
	if h.store, err = storage.Open(filepath.Join(c.dir, "volumes"), storage.Options{Logger: c.logger}); err != nil {
		return nil, err
	}
	if h.external, err = storage.OpenExternals(filepath.Join(c.dir, externalDir), storage.Options{Logger: c.logger}); err != nil {
		return nil, err
	}
	if h.net, err = network.NewHost(network.HostOptions{Logger: c.logger, Dir: filepath.Join(c.dir, "network")}); err != nil {
		return nil, err
	}
	if h.platform, err = qemu.New(qemu.Options{Dir: filepath.Join(c.dir, "machines"), Binary: c.qemu, Logger: c.logger}); err != nil {
		return nil, err
	}
	h.unwatch = h.platform.Watch(h.changed)
	h.resumeReplication(ctx)
	h.reviver = &reviver{status: h.platform.Status, start: h.goOn, short: h.short, logger: c.logger}
	h.background.Go(h.reviveAll)
	return h, nil
}

// close leaves the virtual servers, their data and their network as they are.
func (h *host) close() error {
	var errs []error
	h.end()
	h.background.Wait()
	if h.unwatch != nil {
		h.unwatch()
	}
	if h.platform != nil {
		errs = append(errs, h.platform.Close())
	}
	if h.net != nil {
		errs = append(errs, h.net.Close())
	}
	if h.external != nil {
		errs = append(errs, h.external.Close())
	}
	if h.store != nil {
		errs = append(errs, h.store.Close())
	}
	return errors.Join(errs...)
}

// changed tells the controller of a machine that died or stopped unasked.
func (h *host) changed(st server.Status) {
	if st.State != server.StateDead {
		return
	}
	n := &pb.Notice{Service: st.Name, Participant: string(migration.Server), Role: string(migration.Source), Reason: "the virtual server died: " + st.Err}
	h.book.view(st.Name, func(e entry) {
		n.Epoch = e.Journal.Epoch
		if e.Home == 0 {
			n.Role = string(migration.Destination)
		}
	})
	select {
	case h.notices <- n:
	default:
		h.logger.Warn("notice dropped: too many wait", "service", st.Name)
	}
}

// volatile: the source's streams and the destination's end of them die with the agent.
func (h *host) volatile(id migration.StepID) bool {
	switch id {
	case "storage/source/prepare", "server/source/converge", "server/destination/prepare":
		return true
	}
	return false
}

// start makes volumes, network and machine, in this order, as far as they are not there.
func (h *host) start(ctx context.Context, s *pb.StartService) error {
	spec, name := s.GetService(), s.GetService().GetName()
	raw, err := protojson.Marshal(spec)
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	if s.GetPromote() {
		if err := h.takeOver(ctx, spec, s.GetEpoch(), s.GetRestore()); err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
	}
	if s.GetRestart() {
		if err := h.restart(ctx, s); err != nil {
			return fmt.Errorf("restart %s: %w", name, err)
		}
	}
	for _, v := range spec.GetVolumes() {
		if blob := s.GetRefill()[v.GetName()]; blob != "" {
			v = &pb.VolumeSpec{Name: v.GetName(), Size: v.GetSize(), Volume: v.GetVolume(), Image: blob, Devices: v.GetDevices()}
		}
		if err := h.startVolume(ctx, name, v, s.GetEpoch()); err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
	}
	attachment, err := attachmentOf(spec)
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	if err := h.net.Attach(ctx, attachment, network.GateOpen); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	m, err := h.machine(ctx, spec)
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	st, err := h.platform.Status(ctx, name)
	if err != nil {
		return err
	}
	if st.State == server.StateDead {
		if err := h.platform.Destroy(ctx, name); err != nil {
			return err
		}
	}
	if err := h.platform.Start(ctx, m); err != nil {
		return err
	}
	return h.book.change(name, true, func(e *entry) error {
		e.Home, e.Spec = s.GetEpoch(), raw
		return nil
	})
}

func (h *host) startVolume(ctx context.Context, service string, spec *pb.VolumeSpec, epoch uint64) error {
	if spec.GetExternal() != "" {
		return h.useExternal(ctx, service, spec, epoch)
	}
	name := volumeName(service, spec)
	v, err := h.store.Volume(name)
	if spec.GetVolume() != "" {
		v, err = h.attach(spec, epoch)
	} else if errors.Is(err, storage.ErrNotFound) {
		if err := h.importing(service, spec, spec.GetImage() != ""); err != nil {
			return err
		}
		asked := h.spec(name, spec)
		asked.Overwrite = spec.GetImage() != ""
		v, err = h.store.Create(ctx, asked, epoch)
	}
	if err != nil {
		return err
	}
	empty := false
	h.book.view(service, func(e entry) { empty = slices.Contains(e.Importing, spec.GetName()) })
	if empty {
		if err := h.importImage(ctx, v, spec); err != nil {
			return err
		}
		if err := h.importing(service, spec, false); err != nil {
			return err
		}
	}
	return v.Serve(h.socket(name))
}

// importing notes, durably, whether a volume still lacks its image.
func (h *host) importing(service string, spec *pb.VolumeSpec, lacks bool) error {
	return h.book.change(service, true, func(e *entry) error {
		e.Importing = slices.DeleteFunc(slices.Clone(e.Importing), func(name string) bool { return name == spec.GetName() })
		if lacks {
			e.Importing = append(e.Importing, spec.GetName())
		}
		return nil
	})
}

// stop removes all that start made. It is refused by whatever belongs to a newer epoch.
func (h *host) stop(ctx context.Context, s *pb.StopService) error {
	name := s.GetService()
	if err := h.platform.Destroy(ctx, name); err != nil {
		return err
	}
	if err := h.net.Detach(ctx, name); err != nil {
		return err
	}
	if err := h.endReplication(ctx, name, s.GetEpoch()); err != nil {
		return err
	}
	return h.leave(ctx, s)
}

// observe says what is here of a service, or (with "") the volumes that stand alone; nil if nothing is.
func (h *host) observe(ctx context.Context, service string) *pb.Holding {
	holding := &pb.Holding{Service: service, Server: server.StateAbsent}
	if service == "" {
		if holding.Volumes = h.volumes(""); len(holding.GetVolumes()) == 0 {
			return nil
		}
		return holding
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if st, err := h.platform.Status(ctx, service); err == nil {
		holding.Server = st.State
		if st.Stalled {
			holding.Trouble = "the virtual server is stopped, and goes on by itself when it can: " + st.Err + ": godwit get volumes says what to do"
		}
	}
	holding.Volumes = h.volumes(service)
	if holding.Server == server.StateAbsent && len(holding.Volumes) == 0 {
		return nil
	}
	return holding
}

// machine is the service's machine as the platform knows it.
func (h *host) machine(ctx context.Context, spec *pb.ServiceSpec) (server.Machine, error) {
	s := spec.GetServer()
	m := server.Machine{
		Name: spec.GetName(), CPUs: int(s.GetCpus()), Memory: s.GetMemory(), CommandLine: s.GetCommandLine(),
		MachineType: s.GetMachineType(), CPUModel: s.GetCpuModel(),
		NICs: []server.NIC{{MAC: s.GetMac(), Tap: network.TapName(spec.GetName())}},
	}
	for _, v := range spec.GetVolumes() {
		name := volumeName(spec.GetName(), v)
		m.Disks = append(m.Disks, server.Disk{Name: v.GetName(), Socket: h.socket(name)})
	}
	var err error
	if s.GetKernel() != "" {
		if m.Kernel, err = h.fetch(ctx, s.GetKernel()); err != nil {
			return m, err
		}
	}
	if s.GetInitrd() != "" {
		if m.Initrd, err = h.fetch(ctx, s.GetInitrd()); err != nil {
			return m, err
		}
	}
	return m, nil
}

// spec is what the store is to make of a volume here.
func (h *host) spec(name string, v *pb.VolumeSpec) storage.Spec {
	return storage.Spec{Name: name, Size: v.GetSize(), Device: api.DeviceAt(v, h.site)}
}

func (h *host) socket(volume string) string { return filepath.Join(h.dir, "nbd", volume) }

// volumeName is what the store calls a volume of a service. One that stands alone has its own name, which has no dot.
func volumeName(service string, v *pb.VolumeSpec) string {
	if v.GetVolume() != "" {
		return v.GetVolume()
	}
	return service + "." + v.GetName()
}

func attachmentOf(spec *pb.ServiceSpec) (network.Attachment, error) {
	addresses, err := addressesOf(spec)
	return network.Attachment{
		Service: spec.GetName(), Tap: network.TapName(spec.GetName()), MAC: spec.GetServer().GetMac(),
		Addresses: addresses, Hostname: spec.GetName(),
	}, err
}

func addressesOf(spec *pb.ServiceSpec) ([]netip.Addr, error) {
	addresses := make([]netip.Addr, 0, len(spec.GetAddresses()))
	for _, text := range spec.GetAddresses() {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("address of service %s: %w", spec.GetName(), err)
		}
		addresses = append(addresses, a)
	}
	return addresses, nil
}

// dialTo returns the function with which a participant opens its stream to the destination.
func (h *host) dialTo(s *pb.MigrationStep, kind, name string, class wan.Class) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		return h.dialer.Dial(ctx, s.GetDestination().GetHostAddress(), wan.Hello{
			Kind: kind, Service: s.GetService().GetName(), Name: name, Epoch: s.GetEpoch(), Class: class,
		})
	}
}
