package agent

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/storage"
)

const (
	// takenWithin is how long a start waits for an external disk that another host, which has just died, seems to use still: its
	// locks are given back by the file server, not by itself.
	takenWithin = 30 * time.Second
	takenAgain  = 500 * time.Millisecond
)

// Where the bytes of a volume are.
const (
	backingFile     = "file"
	backingDevice   = "device"
	backingExternal = "external"
)

// split tells the volumes of a service that lie here from those that hosts of all sites reach.
func split(volumes []*pb.VolumeSpec) (here, external []*pb.VolumeSpec) {
	for _, v := range volumes {
		if v.GetExternal() != "" {
			external = append(external, v)
		} else {
			here = append(here, v)
		}
	}
	return here, external
}

// lying are the volumes that lie here, and are replicated where there is a replica.
func lying(s *pb.ServiceSpec) []*pb.VolumeSpec {
	here, _ := split(s.GetVolumes())
	return here
}

func externalSpec(service string, v *pb.VolumeSpec) storage.ExternalSpec {
	return storage.ExternalSpec{Name: volumeName(service, v), Path: v.GetExternal()}
}

// useExternal makes this host the user of an external disk.
func (h *host) useExternal(ctx context.Context, service string, v *pb.VolumeSpec, epoch uint64) error {
	waiting, cancel := context.WithTimeout(ctx, takenWithin)
	defer cancel()
	for {
		x, err := h.external.Use(ctx, externalSpec(service, v), epoch)
		if err == nil {
			return x.Serve(h.socket(volumeName(service, v)))
		}
		if !errors.Is(err, storage.ErrTaken) {
			return err
		}
		select {
		case <-time.After(takenAgain):
		case <-waiting.Done():
			return err
		}
	}
}

// awaitExternal finds out that this host reaches the external disks of a service that is to come, and serves them to the QEMU that waits.
func (h *host) awaitExternal(ctx context.Context, s *pb.MigrationStep) error {
	service := s.GetService().GetName()
	_, external := split(s.GetService().GetVolumes())
	for _, v := range external {
		x, err := h.external.Await(ctx, externalSpec(service, v), s.GetEpoch())
		if err == nil {
			err = x.Serve(h.socket(volumeName(service, v)))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// eachExternal runs f for all external disks of the service at the same time. One that is not known here is an error.
func (h *host) eachExternal(ctx context.Context, s *pb.MigrationStep, f func(context.Context, *storage.External) error) error {
	_, external := split(s.GetService().GetVolumes())
	g, ctx := errgroup.WithContext(ctx)
	for _, v := range external {
		g.Go(func() error {
			x, err := h.external.Disk(volumeName(s.GetService().GetName(), v))
			if err != nil {
				return err
			}
			return f(ctx, x)
		})
	}
	return g.Wait()
}

// forgetExternal ends the use of the service's external disks here, whoever uses them now.
func (h *host) forgetExternal(s *pb.ServiceSpec, epoch uint64) error {
	var errs []error
	_, external := split(s.GetVolumes())
	for _, v := range external {
		errs = append(errs, h.external.Forget(volumeName(s.GetName(), v), epoch))
	}
	return errors.Join(errs...)
}

// both runs what has to be done for volumes and for external disks, at the same time.
func both(ctx context.Context, volumes, external func(context.Context) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return volumes(ctx) })
	g.Go(func() error { return external(ctx) })
	return g.Wait()
}

// externals reports on the external disks of a service.
func (h *host) externals(service string) []*pb.Volume {
	var out []*pb.Volume
	for _, st := range h.external.List() {
		if owner, _, _ := cutName(st.Name); owner == service {
			o := viewVolume(st)
			o.Service, o.Backing = service, backingExternal
			o.Alert = h.alert(o, 0)
			out = append(out, o)
		}
	}
	return out
}
