package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"

	"connectrpc.com/connect"

	"github.com/godwit-project/godwit/api"
	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
)

// The phases of a volume that stands alone.
const (
	volumeChanging = "changing" // being made, or changed
	volumeReady    = "ready"
	volumeFailed   = "failed"
	volumeDeleting = "deleting"
)

// volumeRecord is a volume that stands alone: it was made by itself, and stays when the service that uses it is deleted. While a
// service uses it, it goes where that one goes, and is nobody else's to change.
type volumeRecord struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	// Site and Host are where it lies; while a service uses it, where it lay before.
	Site string `json:"site"`
	Host string `json:"host"`
	// Epoch of the newest wish for it.
	Epoch   uint64 `json:"epoch"`
	Phase   string `json:"phase"`
	Message string `json:"message,omitempty"`
	// Service is the one that uses it.
	Service string `json:"service,omitempty"`
	// Image is the blob that it has still to be filled with.
	Image string `json:"image,omitempty"`
	// Devices are the block devices that it lies on, as in its specification.
	Devices map[string]string `json:"devices,omitempty"`
}

// spec is the volume as a service's would be.
func (r *volumeRecord) spec() *pb.VolumeSpec {
	return &pb.VolumeSpec{Name: r.Name, Size: r.Size, Devices: r.Devices}
}

// volumes are those that stand alone.
type volumes struct {
	store  *ledger
	agents *agents
	blobs  *blobs
	logger *slog.Logger
	turns  *turns
}

// record reads one, and its revision.
func (v *volumes) record(ctx context.Context, name string) (r volumeRecord, rev int64, err error) {
	rev, err = load(ctx, v.store, volumePrefix+name, &r)
	if errors.Is(err, cluster.ErrNotFound) {
		service, _, dotted := strings.Cut(strings.ReplaceAll(name, "/", "."), ".")
		if dotted {
			return r, 0, precondition("volume %s is of service %s, and stands not alone\nhint: godwit get volumes lists both", name, service)
		}
		return r, 0, connect.NewError(connect.CodeNotFound, fmt.Errorf("there is no volume %q that stands alone\nhint: godwit volume create %s --size 10GiB --site SITE makes it", name, name))
	}
	return r, rev, err
}

// create notes that a volume is to be made, or finds that it is there as asked.
func (v *volumes) create(ctx context.Context, req *pb.CreateVolumeRequest) (outcome string, err error) {
	name := req.GetName()
	switch {
	case !api.IsName(name):
		return "", invalid("name %q: want lower-case letters, digits and dashes, at most 40, not beginning or ending with a dash", name)
	case req.GetSize() <= 0 || req.GetSize()%4096 != 0:
		return "", invalid("size is %d bytes: want a positive multiple of 4096", req.GetSize())
	case req.GetSite() == "" && req.GetHost() == "":
		return "", invalid("volume %s: want a site or a host", name)
	case req.GetImage() != "" && !v.blobs.has(req.GetImage()):
		return "", invalid("volume %s: no blob %q has been uploaded", name, req.GetImage())
	}
	if err := checkDevices(&pb.VolumeSpec{Name: name, Devices: req.GetDevices()}); err != nil {
		return "", err
	}
	have, _, err := v.record(ctx, name)
	if err == nil {
		return v.compare(have, req)
	}
	if connect.CodeOf(err) != connect.CodeNotFound {
		return "", err
	}
	host, err := v.place(ctx, req)
	if err != nil {
		return "", err
	}
	r := volumeRecord{Name: name, Size: req.GetSize(), Site: host.Site, Host: host.Name, Phase: volumeChanging, Image: req.GetImage(), Devices: req.GetDevices()}
	if r.Epoch, err = v.store.NextEpoch(ctx); err != nil {
		return "", err
	}
	value, err := encode(r)
	if err != nil {
		return "", err
	}
	if _, err := v.store.Put(ctx, volumePrefix+name, value, cluster.Absent); errors.Is(err, cluster.ErrConflict) {
		return "", connect.NewError(connect.CodeAborted, fmt.Errorf("volume %s was made by somebody else at the same moment\nhint: try again", name))
	} else if err != nil {
		return "", err
	}
	v.turns.take(name)
	return "created", nil
}

// compare says whether a volume that is there is as asked. Where it is now is not looked at once a service has used it: it goes
// where that goes.
func (v *volumes) compare(have volumeRecord, req *pb.CreateVolumeRequest) (string, error) {
	switch {
	case have.Phase == volumeDeleting:
		return "", precondition("volume %s is being deleted\nhint: wait until godwit get volumes no longer shows it", have.Name)
	case have.Size != req.GetSize() || req.GetSite() != "" && have.Site != req.GetSite() || req.GetHost() != "" && have.Host != req.GetHost():
		return "", connect.NewError(connect.CodeAlreadyExists, fmt.Errorf(
			"volume %s exists, of %d bytes on host %s of site %s\nhint: take another name, or godwit volume resize %s", have.Name, have.Size, have.Host, have.Site, have.Name))
	case !maps.Equal(have.Devices, req.GetDevices()):
		return "", connect.NewError(connect.CodeAlreadyExists, fmt.Errorf(
			"volume %s exists, and does not lie on that device\nhint: take another name; godwit get volume %s shows where it lies", have.Name, have.Name))
	}
	if have.Phase != volumeReady {
		v.turns.take(have.Name)
	}
	return "unchanged", nil
}

// place finds the host for a new volume.
func (v *volumes) place(ctx context.Context, req *pb.CreateVolumeRequest) (agentState, error) {
	all, err := v.agents.all(ctx)
	if err != nil {
		return agentState{}, err
	}
	site, known := req.GetSite(), false
	var hosts []agentState
	for _, a := range all {
		if a.Kind != "host" || req.GetHost() != "" && a.Name != req.GetHost() {
			continue
		}
		if site == "" {
			site = a.Site
		}
		if known = true; a.Site == site {
			hosts = append(hosts, a)
		}
	}
	switch {
	case !known && req.GetHost() != "":
		return agentState{}, invalid("there is no host %q\nhint: godwit get hosts lists them", req.GetHost())
	case known && req.GetHost() != "" && len(hosts) == 0:
		return agentState{}, invalid("host %s is not at site %s", req.GetHost(), site)
	}
	return pick("host", site, "volume", hosts, func(a agentState) string {
		if free := a.Facts.GetDiskFree(); free < req.GetSize() && api.DeviceAt(&pb.VolumeSpec{Devices: req.GetDevices()}, a.Site) == "" {
			return fmt.Sprintf("too little disk space: %d MiB free, the volume needs %d MiB", free>>20, req.GetSize()>>20)
		}
		return ""
	})
}

// change makes a volume larger that no service uses, or gives it another content.
func (v *volumes) change(ctx context.Context, r volumeRecord, req *pb.ChangeVolumeRequest) (unchanged bool, err error) {
	host, err := v.agents.connectedAgent(ctx, r.Host)
	if err != nil {
		return false, err
	}
	if r.Phase == volumeDeleting {
		return false, precondition("volume %s is being deleted", r.Name)
	}
	if unchanged, err = v.mayChange(r.Name, r.spec(), req, host); err != nil || unchanged && r.Phase == volumeReady {
		return unchanged, err
	}
	epoch, err := v.store.NextEpoch(ctx)
	if err != nil {
		return false, err
	}
	err = v.update(ctx, r.Name, func(now *volumeRecord) error {
		if now.Service != "" || now.Phase == volumeDeleting {
			return changedMeanwhile("volume", r.Name)
		}
		now.Size, now.Epoch, now.Phase, now.Message = max(now.Size, req.GetSize()), epoch, volumeChanging, ""
		if req.GetImage() != "" {
			now.Image = req.GetImage()
		}
		return nil
	})
	if err == nil {
		v.turns.take(r.Name)
	}
	return false, err
}

// mayChange says why such a volume cannot be changed as asked, and whether nothing is to be done.
func (v *volumes) mayChange(name string, volume *pb.VolumeSpec, req *pb.ChangeVolumeRequest, host agentState) (unchanged bool, err error) {
	size := volume.GetSize()
	more := req.GetSize() - size
	switch {
	case req.GetSize()%4096 != 0 || req.GetSize() < 0:
		return false, invalid("size is %d bytes: want a positive multiple of 4096", req.GetSize())
	case req.GetSize() > 0 && more < 0:
		return false, invalid("volume %s has %d bytes: volumes grow only", name, size)
	case more > host.Facts.GetDiskFree() && api.DeviceAt(volume, host.Site) == "": // how large a device is only the host knows
		return false, precondition("host %s has %d MiB free, %d MiB more are needed\nhint: make room there, or migrate the service to a host that has it", host.Name, host.Facts.GetDiskFree()>>20, more>>20)
	case req.GetImage() != "" && !v.blobs.has(req.GetImage()):
		return false, invalid("no blob %q has been uploaded", req.GetImage())
	}
	return req.GetImage() == "" && more <= 0, nil
}

func (v *volumes) update(ctx context.Context, name string, f func(*volumeRecord) error) error {
	return update(ctx, v.store, volumePrefix+name, f)
}

// delete removes a volume that no service uses, and returns when it is gone.
func (v *volumes) delete(ctx context.Context, name string) error {
	if _, _, err := v.record(ctx, name); err != nil {
		return err
	}
	epoch, err := v.store.NextEpoch(ctx)
	if err != nil {
		return err
	}
	err = v.update(ctx, name, func(r *volumeRecord) error {
		if r.Service != "" {
			return precondition("volume %s is in use by service %s\nhint: godwit delete service %s leaves it; then it can be deleted", name, r.Service, r.Service)
		}
		if r.Phase != volumeDeleting {
			r.Phase, r.Epoch = volumeDeleting, epoch
		}
		return nil
	})
	if err != nil && !errors.Is(err, cluster.ErrNotFound) {
		return err
	}
	return awaitGone(ctx, v.store, volumePrefix+name, func() { v.turns.take(name) })
}

// settle has the host make of a volume what the store says.
func (v *volumes) settle(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var r volumeRecord
	if _, err := load(ctx, v.store, volumePrefix+name, &r); errors.Is(err, cluster.ErrNotFound) || err == nil && (r.Phase == volumeReady || r.Service != "") {
		return nil
	} else if err != nil {
		return err
	}
	remove := r.Phase == volumeDeleting
	task := &pb.PlaceVolume{Name: name, Epoch: r.Epoch, Size: r.Size, Image: r.Image, Remove: remove, Device: api.DeviceAt(r.spec(), r.Site)}
	err := v.agents.callOnce(ctx, r.Host, &pb.SessionResponse{Task: &pb.SessionResponse_Place{Place: task}})
	if err == nil && remove {
		v.logger.Info("volume deleted", "volume", name, "host", r.Host)
		return v.store.Delete(ctx, volumePrefix+name, cluster.Any)
	}
	noted := v.update(ctx, name, func(now *volumeRecord) error {
		switch {
		case now.Epoch != r.Epoch: // it is to be something else by now
		case err != nil && !remove:
			now.Phase, now.Message = volumeFailed, err.Error()
		case err != nil:
			now.Message = err.Error()
		default:
			now.Phase, now.Message, now.Image = volumeReady, "", ""
		}
		return nil
	})
	if err == nil && noted == nil {
		v.logger.Info("volume is ready", "volume", name, "site", r.Site, "host", r.Host, "size", r.Size)
	}
	return errors.Join(err, noted)
}

// resume goes on with what is not as it is to be, on the host that has just connected, or (with "") on all.
func (v *volumes) resume(ctx context.Context, host string) error {
	all, err := list[volumeRecord](ctx, v.store, volumePrefix)
	for _, r := range all {
		if r.Phase != volumeReady && (host == "" || r.Host == host) {
			v.turns.take(r.Name)
		}
	}
	return err
}
