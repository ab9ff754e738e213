package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/godwit-project/godwit/api"
	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

const (
	service        = "bench"
	serviceAddress = "203.0.113.10"
)

// machine is what the guest's QEMU is given, so that the bare one is given the same.
type machine struct {
	accelerator, machineType, cpuModel string
}

// measureGodwit starts the guest as a service, moves it there and back, and removes it.
func (b *bed) measureGodwit(ctx context.Context, r *results) (moves []move, err error) {
	if err := b.startService(ctx); err != nil {
		return nil, fmt.Errorf("start the service: %w", err)
	}
	defer func() { err = errors.Join(err, b.removeService(ctx)) }()
	if r.machine, err = b.lookAtMachine(ctx); err != nil {
		return nil, err
	}
	if err := b.warm(ctx, serviceAddress); err != nil {
		return nil, err
	}
	for _, to := range []string{east, west} {
		m, err := b.watch(ctx, serviceAddress, to, func(ctx context.Context) (outcome, error) { return b.migrate(ctx, to) })
		if err != nil {
			return nil, fmt.Errorf("move to %s: %w", to, err)
		}
		moves = append(moves, m)
	}
	return moves, b.verify(ctx, serviceAddress)
}

func (b *bed) startService(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bootTimeout, fmt.Errorf("the service was not running within %v", bootTimeout))
	defer cancel()
	spec := &godwitv1.ServiceSpec{
		Name: service, Site: west, Network: api.DefaultNetwork,
		Server: &godwitv1.ServerSpec{
			Cpus: 1, Memory: guestMemory, Kernel: b.kernel(), Initrd: b.initrd(), CommandLine: guestConsole + guestLoad,
		},
		Volumes:   []*godwitv1.VolumeSpec{{Name: "data", Size: guestDisk}},
		Addresses: []string{serviceAddress},
	}
	if err := b.client.UploadFiles(ctx, spec, nil); err != nil {
		return err
	}
	if _, err := b.client.Apply(ctx, spec); err != nil {
		return err
	}
	return eventually(ctx, 250*time.Millisecond, func() (bool, error) {
		now, err := b.client.Service(ctx, service)
		switch {
		case api.Unreachable(err):
			return false, nil
		case err != nil:
			return false, err
		case now.GetStatus().GetPhase() == "failed":
			return false, errors.New(now.GetStatus().GetMessage())
		default:
			return now.GetStatus().GetPhase() == "running", nil
		}
	})
}

// removeService is tried after an interrupt too, though the lab goes then in any case.
func (b *bed) removeService(ctx context.Context) error {
	if ctx.Err() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, bootTimeout, errors.New("the service does not go away"))
	defer cancel()
	if err := b.client.Delete(ctx, "service", service); err != nil {
		return fmt.Errorf("remove the service: %w", err)
	}
	err := eventually(ctx, 100*time.Millisecond, func() (bool, error) {
		_, err := b.client.Service(ctx, service)
		if api.NotFound(err) {
			return true, nil
		}
		return false, err
	})
	if err != nil {
		return fmt.Errorf("remove the service: %w", err)
	}
	return nil
}

// lookAtMachine finds out how the service's QEMU is run: what the service says, else what its host prefers.
func (b *bed) lookAtMachine(ctx context.Context) (machine, error) {
	now, err := b.client.Service(ctx, service)
	if err != nil {
		return machine{}, err
	}
	found, err := b.client.Get(ctx, "host", now.GetStatus().GetHost())
	if err != nil {
		return machine{}, err
	}
	if len(found) == 0 {
		return machine{}, fmt.Errorf("look at host %q: it is not there", now.GetStatus().GetHost())
	}
	facts := found[0].GetHost().GetFacts()
	m := machine{accelerator: facts.GetAccelerator()}
	for _, pick := range []struct {
		into      *string
		said      string
		preferred []string
	}{
		{&m.machineType, now.GetSpec().GetServer().GetMachineType(), facts.GetMachineTypes()},
		{&m.cpuModel, now.GetSpec().GetServer().GetCpuModel(), facts.GetCpuModels()},
	} {
		*pick.into = pick.said
		if pick.said == "" && len(pick.preferred) > 0 {
			*pick.into = pick.preferred[0]
		}
	}
	return m, nil
}

// migrate moves the service as a user would.
func (b *bed) migrate(ctx context.Context, to string) (outcome, error) {
	asked, err := b.client.Migrate(ctx, &godwitv1.MigrateRequest{Service: service, ToSite: to})
	if err != nil {
		return outcome{}, err
	}
	last, err := b.client.FollowMigration(ctx, asked.GetName(), api.Follow{Patience: time.Minute})
	if err != nil {
		return outcome{}, err
	}
	if _, completed := api.Finished(last); !completed {
		return outcome{}, fmt.Errorf("it was aborted: %s", last.GetReason())
	}
	view := api.ViewMigration(last)
	o := outcome{blackout: view.BlackoutMs, counted: float64(view.WANBytes), memory: float64(view.MemoryBytes), disk: float64(view.DiskBytes)}
	for _, p := range view.Phases {
		if p.Phase != view.Phase {
			o.phases = append(o.phases, phase{p.Phase, p.LengthMs})
		}
	}
	return o, nil
}
