package controller

import (
	"context"
	"maps"
	"slices"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
)

// hostName is what hosts call a volume of a service.
func hostName(service string, v *pb.VolumeSpec) string {
	if v.GetVolume() != "" {
		return v.GetVolume()
	}
	return service + "." + v.GetName()
}

// fill completes what a specification says of volumes that stand alone: they have the size that they have, and
// lie where they lie.
func (v *volumes) fill(ctx context.Context, specs []*pb.VolumeSpec) error {
	for _, spec := range specs {
		if spec.GetVolume() == "" {
			continue
		}
		r, _, err := v.record(ctx, spec.GetVolume())
		if err != nil {
			return err
		}
		if spec.GetSize() != 0 && spec.GetSize() != r.Size {
			return invalid("volume %s is volume %s, which has %d bytes, not %d\nhint: leave size out; godwit volume resize %s makes it larger", spec.GetName(), r.Name, r.Size, spec.GetSize(), r.Name)
		}
		if len(spec.GetDevices()) > 0 && !maps.Equal(spec.GetDevices(), r.Devices) {
			return invalid("volume %s is volume %s, which lies where it lies\nhint: leave device out", spec.GetName(), r.Name)
		}
		spec.Size, spec.Devices = r.Size, r.Devices
	}
	return nil
}

// attachment is what it takes that a new service uses volumes that stand alone.
type attachment struct {
	host      string // where all of them are; empty: it uses none
	unchanged []cluster.Compare
	ops       []cluster.Op
}

// free finds the volumes that a new service uses to be in nobody's use, and where it has to be started: they are all on one host.
func (v *volumes) free(ctx context.Context, spec *pb.ServiceSpec) (a attachment, err error) {
	first := ""
	for _, one := range spec.GetVolumes() {
		if one.GetVolume() == "" {
			continue
		}
		r, rev, err := v.record(ctx, one.GetVolume())
		switch {
		case err != nil:
			return a, err
		case r.Service != "":
			return a, precondition("volume %s is in use by service %s\nhint: godwit delete service %s leaves it for another", r.Name, r.Service, r.Service)
		case r.Phase != volumeReady:
			return a, precondition("volume %s is %s%s\nhint: wait until it is ready: godwit get volume %s", r.Name, r.Phase, because(r.Message), r.Name)
		case r.Site != spec.GetSite():
			return a, precondition("volume %s is at site %s, and service %s is to be started at site %s\nhint: start it at %s, and migrate it then", r.Name, r.Site, spec.GetName(), spec.GetSite(), r.Site)
		case a.host != "" && a.host != r.Host:
			return a, precondition("volume %s is on host %s, and volume %s on host %s: a service has all of its volumes on one host", first, a.host, r.Name, r.Host)
		}
		a.host, first = r.Host, r.Name
		r.Service = spec.GetName()
		value, err := encode(r)
		if err != nil {
			return a, err
		}
		key := volumePrefix + r.Name
		a.unchanged, a.ops = append(a.unchanged, cluster.Compare{Key: key, Revision: rev}), append(a.ops, cluster.Op{Key: key, Value: value})
	}
	return a, nil
}

// detach lets a service go that is deleted: its volumes that stand alone stay where it was, or are gone with it.
func (v *volumes) detach(ctx context.Context, spec *pb.ServiceSpec, owner cluster.Owner, epoch uint64, gone bool) (ops []cluster.Op, err error) {
	for _, one := range spec.GetVolumes() {
		if one.GetVolume() == "" {
			continue
		}
		key := volumePrefix + one.GetVolume()
		if gone {
			ops = append(ops, cluster.Op{Key: key, Delete: true})
			continue
		}
		r, _, err := v.record(ctx, one.GetVolume())
		if err != nil {
			return nil, err
		}
		r.Service, r.Site, r.Host, r.Epoch, r.Size = "", owner.Site, owner.Host, epoch, one.GetSize()
		value, err := encode(r)
		if err != nil {
			return nil, err
		}
		ops = append(ops, cluster.Op{Key: key, Value: value})
	}
	return ops, nil
}

// resized notes that a service's volume, which stands alone, has another size.
func (v *volumes) resized(ctx context.Context, spec *pb.VolumeSpec) ([]cluster.Op, error) {
	if spec.GetVolume() == "" {
		return nil, nil
	}
	r, _, err := v.record(ctx, spec.GetVolume())
	if err != nil {
		return nil, err
	}
	r.Size = spec.GetSize()
	value, err := encode(r)
	return []cluster.Op{{Key: volumePrefix + r.Name, Value: value}}, err
}

// used finds a volume that was named by itself: the service that uses it, "" for none, and what that calls it.
func (s *services) used(ctx context.Context, name string) (r volumeRecord, service, volume string, err error) {
	if r, _, err = s.volumes.record(ctx, name); err != nil || r.Service == "" {
		return r, "", name, err
	}
	var user serviceRecord
	if _, err := load(ctx, s.store, servicePrefix+r.Service, &user); err != nil {
		return r, "", "", err
	}
	spec, err := user.spec()
	if err != nil {
		return r, "", "", err
	}
	at := slices.IndexFunc(spec.GetVolumes(), func(v *pb.VolumeSpec) bool { return v.GetVolume() == name })
	if at < 0 {
		return r, "", "", changedMeanwhile("volume", name)
	}
	return r, r.Service, spec.GetVolumes()[at].GetName(), nil
}

// copied are the volumes that go where the service goes; external ones are everywhere.
func copied(volumes []*pb.VolumeSpec) []*pb.VolumeSpec {
	return slices.DeleteFunc(slices.Clone(volumes), func(v *pb.VolumeSpec) bool { return v.GetExternal() != "" })
}
