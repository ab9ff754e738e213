package agent

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/migration"
	"github.com/godwit-project/godwit/network"
	"github.com/godwit-project/godwit/server"
	"github.com/godwit-project/godwit/storage"
	"github.com/godwit-project/godwit/wan"
)

// hostStep carries out one verb of one participant on a host.
type hostStep func(h *host, ctx context.Context, s *pb.MigrationStep, report func(*pb.TaskProgress)) (*pb.StepFigures, error)

// hostSteps is everything that a host can be asked in a migration.
var hostSteps = map[migration.StepID]hostStep{
	"storage/destination/prepare": (*host).prepareReplicas,
	"storage/source/prepare":      (*host).replicateVolumes,
	"storage/source/converge":     (*host).convergeVolumes,
	"storage/source/synchronize":  (*host).synchronizeVolumes,
	"storage/source/quiesce":      (*host).fenceVolumes,
	"storage/destination/quiesce": (*host).drainedVolumes,
	"storage/destination/commit":  (*host).promoteVolumes,
	"storage/source/release":      (*host).deleteVolumes,
	"storage/destination/release": (*host).forgetReplication,
	"storage/source/abort":        (*host).unfenceVolumes,
	"storage/destination/abort":   (*host).deleteVolumes,

	"server/destination/prepare": (*host).prepareIncoming,
	"server/source/prepare":      (*host).prepareSource,
	"server/source/converge":     (*host).convergeMemory,
	"server/source/synchronize":  (*host).convergeMemory,
	"server/source/quiesce":      (*host).quiesceServer,
	"server/destination/quiesce": (*host).loadedServer,
	"server/destination/commit":  (*host).activateServer,
	"server/source/release":      (*host).releaseServer,
	"server/destination/release": (*host).nothing,
	"server/source/abort":        (*host).rollbackServer,
	"server/destination/abort":   (*host).dropServer,
}

func (h *host) step(ctx context.Context, s *pb.MigrationStep, id migration.StepID, report func(*pb.TaskProgress)) (*pb.StepFigures, error) {
	if id.Verb() == migration.ObserveVerb {
		return nil, nil
	}
	f, ok := hostSteps[id]
	if !ok {
		return nil, fmt.Errorf("step %s is not known on a host", id)
	}
	return f(h, ctx, s, report)
}

func (h *host) nothing(context.Context, *pb.MigrationStep, func(*pb.TaskProgress)) (*pb.StepFigures, error) {
	return nil, nil
}

// eachVolume runs f for all volumes of the service that lie here at the same time. A volume that is not here is an error.
func (h *host) eachVolume(ctx context.Context, s *pb.MigrationStep, f func(context.Context, *storage.Volume) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, spec := range lying(s.GetService()) {
		g.Go(func() error {
			v, err := h.store.Volume(volumeName(s.GetService().GetName(), spec))
			if err != nil {
				return fmt.Errorf("volume %s: %w", spec.GetName(), err)
			}
			return f(ctx, v)
		})
	}
	return g.Wait()
}

func (h *host) prepareReplicas(ctx context.Context, s *pb.MigrationStep, _ func(*pb.TaskProgress)) (*pb.StepFigures, error) {
	if err := h.awaitExternal(ctx, s); err != nil {
		return nil, err
	}
	for _, spec := range lying(s.GetService()) {
		name := volumeName(s.GetService().GetName(), spec)
		v, err := h.store.CreateReplica(ctx, h.spec(name, spec), s.GetEpoch())
		if err != nil {
			return nil, err
		}
		if err := v.Serve(h.socket(name)); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (h *host) replicateVolumes(ctx context.Context, s *pb.MigrationStep, _ func(*pb.TaskProgress)) (*pb.StepFigures, error) {
	return nil, h.eachVolume(ctx, s, func(ctx context.Context, v *storage.Volume) error {
		return v.Replicate(ctx, s.GetEpoch(), h.dialTo(s, streamVolume, v.Status().Name, wan.Sync))
	})
}

func (h *host) convergeVolumes(ctx context.Context, s *pb.MigrationStep, report func(*pb.TaskProgress)) (*pb.StepFigures, error) {
	return nil, h.eachVolume(ctx, s, func(ctx context.Context, v *storage.Volume) error {
		return v.Converged(ctx, func(storage.Status) { report(h.copied(s)) })
	})
}

// copied adds up how far the volumes are.
func (h *host) copied(s *pb.MigrationStep) *pb.TaskProgress {
	p := &pb.TaskProgress{Message: "copying"}
	for _, spec := range s.GetService().GetVolumes() {
		v, err := h.store.Volume(volumeName(s.GetService().GetName(), spec))
		if err != nil {
			continue
		}
		st := v.Status()
		p.Done += st.Copied
		p.Total += st.Total
		p.Rate += float64(st.Rate)
	}
	return p
}

func (h *host) synchronizeVolumes(ctx context.Context, s *pb.MigrationStep, _ func(*pb.TaskProgress)) (*pb.StepFigures, error) {
	return nil, both(ctx, func(ctx context.Context) error {
		return h.eachVolume(ctx, s, func(ctx context.Context, v *storage.Volume) error { return v.Synchronize(ctx, s.GetEpoch()) })
	}, func(ctx context.Context) error {
		return h.eachExternal(ctx, s, func(ctx context.Context, x *storage.External) error { return x.Sync(ctx) })
	})
}

func (h *host) fenceVolumes(ctx context.Context, s *pb.MigrationStep, _ func(*pb.TaskProgress)) (*pb.StepFigures, error) {
	err := both(ctx, func(ctx context.Context) error {
		return h.eachVolume(ctx, s, func(ctx context.Context, v *storage.Volume) error { return v.Fence(ctx, s.GetEpoch()) })
	}, func(ctx context.Context) error {
		return h.eachExternal(ctx, s, func(ctx context.Context, x *storage.External) error { return x.Fence(ctx, s.GetEpoch()) })
	})
	f := new(pb.StepFigures)
	for _, spec := range s.GetService().GetVolumes() {
		if v, err := h.store.Volume(volumeName(s.GetService().GetName(), spec)); err == nil {
			f.DiskBytes += v.Status().Shipped
		}
	}
	return f, err
}

func (h *host) drainedVolumes(ctx context.Context, s *pb.MigrationStep, _ func(*pb.TaskProgress)) (*pb.StepFigures, error) {
	return nil, h.eachVolume(ctx, s, func(ctx context.Context, v *storage.Volume) error {
		return v.Drained(ctx, s.GetEpoch())
	})
}

func (h *host) promoteVolumes(ctx context.Context, s *pb.MigrationStep, _ func(*pb.TaskProgress)) (*pb.StepFigures, error) {
	return nil, both(ctx, func(ctx context.Context) error {
		return h.eachVolume(ctx, s, func(ctx context.Context, v *storage.Volume) error { return v.Promote(ctx, s.GetEpoch()) })
	}, func(ctx context.Context) error {
		return h.eachExternal(ctx, s, func(ctx context.Context, x *storage.External) error { return x.Promote(ctx, s.GetEpoch()) })
	})
}

func (h *host) forgetReplication(ctx context.Context, s *pb.MigrationStep, _ func(*pb.TaskProgress)) (*pb.StepFigures, error) {
	return nil, h.eachVolume(ctx, s, func(ctx context.Context, v *storage.Volume) error {
		return v.Forget(ctx, s.GetEpoch())
	})
}

func (h *host) unfenceVolumes(ctx context.Context, s *pb.MigrationStep, _ func(*pb.TaskProgress)) (*pb.StepFigures, error) {
	return nil, both(ctx, func(ctx context.Context) error {
		return h.eachVolume(ctx, s, func(ctx context.Context, v *storage.Volume) error { return v.Unfence(ctx, s.GetEpoch()) })
	}, func(ctx context.Context) error {
		return h.eachExternal(ctx, s, func(ctx context.Context, x *storage.External) error { return x.Unfence(ctx, s.GetEpoch()) })
	})
}

// deleteVolumes removes what the source kept, after Commit, or what the destination got, at Abort.
func (h *host) deleteVolumes(ctx context.Context, s *pb.MigrationStep, _ func(*pb.TaskProgress)) (*pb.StepFigures, error) {
	f := &pb.StepFigures{WanBytes: h.meter.Bytes(s.GetService().GetName(), s.GetEpoch())}
	if err := h.forgetExternal(s.GetService(), s.GetEpoch()); err != nil {
		return nil, err
	}
	for _, spec := range lying(s.GetService()) {
		if err := h.store.Delete(ctx, volumeName(s.GetService().GetName(), spec), s.GetEpoch()); err != nil {
			return nil, err
		}
	}
	h.meter.Forget(s.GetService().GetName(), s.GetEpoch())
	return f, nil
}

// prepareIncoming checks that the machine can run here, and starts it, empty and waiting, behind a shut gate.
func (h *host) prepareIncoming(ctx context.Context, s *pb.MigrationStep, _ func(*pb.TaskProgress)) (*pb.StepFigures, error) {
	spec := s.GetService()
	capabilities, err := h.capabilities(ctx)
	if err != nil {
		return nil, err
	}
	if why := mismatch(spec.GetServer(), capabilities, freeMemory()); why != "" {
		return nil, fmt.Errorf("host %s cannot run %s: %s", s.GetDestination().GetHost(), spec.GetName(), why)
	}
	attachment, err := attachmentOf(spec)
	if err != nil {
		return nil, err
	}
	if err := h.net.Attach(ctx, attachment, network.GateShut); err != nil {
		return nil, err
	}
	if err := h.shut(ctx, spec.GetName()); err != nil {
		return nil, err
	}
	m, err := h.machine(ctx, spec)
	if err != nil {
		return nil, err
	}
	return nil, h.platform.PrepareIncoming(ctx, m, s.GetEpoch())
}

// mismatch says what a machine needs that is not here; empty when all is.
func mismatch(s *pb.ServerSpec, c server.Capabilities, free int64) string {
	switch {
	case !slices.Contains(c.MachineTypes, s.GetMachineType()):
		return fmt.Sprintf("it runs as machine type %s, which QEMU %s here does not have", s.GetMachineType(), c.Version)
	case !slices.Contains(c.CPUModels, s.GetCpuModel()):
		return fmt.Sprintf("it runs with CPU model %s, which is not to be had here under %s", s.GetCpuModel(), c.Accelerator)
	case free < s.GetMemory():
		return fmt.Sprintf("it needs %d MiB of memory, %d MiB are free", s.GetMemory()>>20, free>>20)
	}
	return ""
}

// prepareSource checks that the machine can be handed over, and compares the clocks.
func (h *host) prepareSource(ctx context.Context, s *pb.MigrationStep, _ func(*pb.TaskProgress)) (*pb.StepFigures, error) {
	const tries = 4
	if err := h.platform.CheckSource(ctx, s.GetService().GetName()); err != nil {
		return nil, err
	}
	f := &pb.StepFigures{ClockUncertaintyNs: math.MaxInt64}
	for range tries {
		conn, err := h.dialTo(s, streamClock, "", wan.Handover)(ctx)
		if err != nil {
			return nil, err
		}
		stream := conn.(*wan.Stream)
		if err := stream.Close(); err != nil {
			h.logger.Debug("clock stream", "err", err)
		}
		if u := stream.ClockUncertainty.Nanoseconds(); u < f.GetClockUncertaintyNs() {
			f.ClockOffsetNs, f.ClockUncertaintyNs = stream.ClockOffset.Nanoseconds(), u
		}
	}
	return f, nil
}

func (h *host) convergeMemory(ctx context.Context, s *pb.MigrationStep, report func(*pb.TaskProgress)) (*pb.StepFigures, error) {
	name := s.GetService().GetName()
	dial := func(ctx context.Context) (net.Conn, error) {
		conn, err := h.dialTo(s, streamMemory, name, wan.Handover)(ctx)
		if err != nil {
			return nil, err
		}
		return wan.Compress(conn)
	}
	err := h.platform.Converge(ctx, name, s.GetEpoch(), dial, func(p server.Progress) {
		report(&pb.TaskProgress{
			Done: p.Transferred, Total: p.Transferred + p.Remaining, Rate: p.Rate,
			Message: fmt.Sprintf("pass %d, guest changes %.1f MB/s", p.Iteration, p.DirtyRate/1e6),
		})
	})
	if err != nil {
		return nil, err
	}
	return nil, h.openCheck(ctx, s)
}

// quiesceServer stops the guest and sends what remains. Tap and volumes are shut before the stream goes on: from there
// QEMU might let the guest run again by itself. The volumes are drained while the memory is sent, so that the step which asks
// for it finds it done; this host's other guests are led away meanwhile.
func (h *host) quiesceServer(ctx context.Context, s *pb.MigrationStep, _ func(*pb.TaskProgress)) (*pb.StepFigures, error) {
	name := s.GetService().GetName()
	drain, stop := context.WithCancel(ctx)
	defer stop()
	var drained errgroup.Group
	shut := func(ctx context.Context) error {
		if err := h.shutAll(ctx, s); err != nil {
			return err
		}
		drained.Go(func() error {
			_, err := h.fenceVolumes(drain, s, nil)
			return err
		})
		drained.Go(func() error { return h.net.Divert(drain, name, true) })
		return nil
	}
	err := h.eachVolume(ctx, s, func(_ context.Context, v *storage.Volume) error {
		v.Hasten(s.GetEpoch())
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := h.platform.Quiesce(ctx, name, s.GetEpoch(), shut); err != nil {
		stop()
		_ = drained.Wait() // that it was given up says nothing new
		return nil, err
	}
	if err := drained.Wait(); err != nil {
		return nil, err
	}
	st, err := h.platform.Status(ctx, name)
	if err != nil {
		return nil, err
	}
	return &pb.StepFigures{StoppedAt: timestamppb.New(st.StoppedAt), MemoryBytes: st.Sent}, nil
}

// shutAll shuts everything that a stopped guest could reach if it ran again, all at the same time.
func (h *host) shutAll(ctx context.Context, s *pb.MigrationStep) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.offerMemory(s) })
	g.Go(func() error { return h.net.SetGate(ctx, s.GetService().GetName(), network.GateShut) })
	g.Go(func() error {
		return h.eachVolume(ctx, s, func(ctx context.Context, v *storage.Volume) error { return v.Shut(ctx, s.GetEpoch()) })
	})
	g.Go(func() error {
		return h.eachExternal(ctx, s, func(ctx context.Context, x *storage.External) error { return x.Shut(ctx, s.GetEpoch()) })
	})
	return g.Wait()
}

// shut lets nothing pass between the world and a machine that must not run here; this host's other guests are led to
// the edge, which knows where it does run.
func (h *host) shut(ctx context.Context, name string) error {
	if err := h.net.SetGate(ctx, name, network.GateShut); err != nil {
		return err
	}
	return h.net.Divert(ctx, name, true)
}

// open undoes shut, both ways or inward alone. The gate is last: who passes it, arrives.
func (h *host) open(ctx context.Context, name string, to network.Gate) error {
	if err := h.net.Divert(ctx, name, false); err != nil {
		return err
	}
	return h.net.SetGate(ctx, name, to)
}

// loadedServer waits for the machine to have everything. From then on packets may come to it, which wait in its tap's queue:
// so traffic can be let go to it by the same decision that lets it run.
func (h *host) loadedServer(ctx context.Context, s *pb.MigrationStep, _ func(*pb.TaskProgress)) (*pb.StepFigures, error) {
	if err := h.platform.Loaded(ctx, s.GetService().GetName(), s.GetEpoch()); err != nil {
		return nil, err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.repairMemory(ctx, s) })
	g.Go(func() error { return h.open(ctx, s.GetService().GetName(), network.GateInward) })
	return nil, g.Wait()
}

// activateServer promotes the volumes, which the guest needs, whether or not the command for that has come first; and opens
// the gate before the guest runs, so that its first packet passes.
func (h *host) activateServer(ctx context.Context, s *pb.MigrationStep, _ func(*pb.TaskProgress)) (*pb.StepFigures, error) {
	spec, name := s.GetService(), s.GetService().GetName()
	raw, err := protojson.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("activate %s: %w", name, err)
	}
	g, both := errgroup.WithContext(ctx)
	g.Go(func() error {
		_, err := h.promoteVolumes(both, s, nil)
		return err
	})
	g.Go(func() error { return h.open(both, name, network.GateOpen) })
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if err := h.platform.Activate(ctx, name, s.GetEpoch()); err != nil {
		return nil, h.rescue(ctx, &pb.StartService{Service: spec, Epoch: s.GetEpoch(), Place: s.GetDestination()}, err)
	}
	h.checks.drop(name)
	err = h.book.change(name, false, func(e *entry) error {
		e.Home, e.Spec = s.GetEpoch(), raw
		return nil
	})
	if err != nil {
		return nil, err
	}
	st, err := h.platform.Status(ctx, name)
	if err != nil {
		return nil, err
	}
	return &pb.StepFigures{ResumedAt: timestamppb.New(st.ResumedAt)}, nil
}

// rescue boots a machine that died in mid-handover, on the side where it has to run. Its memory is lost; its volumes have
// every acknowledged write. A machine that lives is left alone, and err returned.
func (h *host) rescue(ctx context.Context, s *pb.StartService, err error) error {
	name := s.GetService().GetName()
	st, serr := h.platform.Status(ctx, name)
	if serr != nil || (st.State != server.StateDead && st.State != server.StateAbsent) {
		return errors.Join(err, serr)
	}
	h.logger.Error("virtual server died during its handover, booting it from its volumes", "service", name, "epoch", s.GetEpoch(), "err", err)
	return h.start(ctx, s)
}

func (h *host) releaseServer(ctx context.Context, s *pb.MigrationStep, _ func(*pb.TaskProgress)) (*pb.StepFigures, error) {
	name := s.GetService().GetName()
	h.checks.drop(name)
	if err := h.platform.Destroy(ctx, name); err != nil {
		return nil, err
	}
	if err := h.net.Detach(ctx, name); err != nil {
		return nil, err
	}
	return nil, h.book.change(name, false, func(e *entry) error {
		e.Home, e.Spec, e.Importing = 0, nil, nil
		return nil
	})
}

// rollbackServer lets the guest run here again. The gate opens first, for its first packet; its volumes are open already.
func (h *host) rollbackServer(ctx context.Context, s *pb.MigrationStep, _ func(*pb.TaskProgress)) (*pb.StepFigures, error) {
	name := s.GetService().GetName()
	h.checks.drop(name)
	if err := h.open(ctx, name, network.GateOpen); err != nil {
		return nil, err
	}
	err := h.platform.Rollback(ctx, name, s.GetEpoch())
	var home uint64
	h.book.view(name, func(e entry) { home = e.Home })
	return nil, h.rescue(ctx, &pb.StartService{Service: s.GetService(), Epoch: home, Place: s.GetSource()}, err)
}

func (h *host) dropServer(ctx context.Context, s *pb.MigrationStep, _ func(*pb.TaskProgress)) (*pb.StepFigures, error) {
	name := s.GetService().GetName()
	h.checks.drop(name)
	if err := h.platform.DropIncoming(ctx, name, s.GetEpoch()); err != nil {
		return nil, err
	}
	return nil, h.net.Detach(ctx, name)
}
