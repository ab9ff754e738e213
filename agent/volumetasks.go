package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/storage"
)

const (
	// mostDifferences is how many differing ranges are told, so that the answer stays a message.
	mostDifferences = 1000
	// keepTimeout bounds how long a snapshot waits for the other end.
	keepTimeout = 30 * time.Second
)

// volume does what an operator asks. What needs the standing replication is asked of the end that can do it, and the errors say
// when there is none.
func (h *host) volume(ctx context.Context, t *pb.VolumeTask, report func(*pb.TaskProgress)) (*pb.VolumeResult, error) {
	switch t.GetVerb() {
	case pb.VolumeVerb_VOLUME_VERB_LOCATE:
		return h.locate(t)
	case pb.VolumeVerb_VOLUME_VERB_VERIFY:
		return h.verify(ctx, t, report)
	case pb.VolumeVerb_VOLUME_VERB_EXPORT:
		return h.export(ctx, t, report)
	case pb.VolumeVerb_VOLUME_VERB_SNAPSHOT:
		return h.keepSnapshot(ctx, t)
	case pb.VolumeVerb_VOLUME_VERB_LIST_SNAPSHOTS:
		return h.snapshots(t)
	case pb.VolumeVerb_VOLUME_VERB_DELETE_SNAPSHOT:
		return h.deleteSnapshot(t)
	case pb.VolumeVerb_VOLUME_VERB_OPEN:
		return h.openSnapshot(ctx, t)
	}
	return nil, fmt.Errorf("volume task %s is not known here: install the same godwit everywhere", t.GetVerb())
}

// named says whether a task is about a volume of the store.
func named(t *pb.VolumeTask, volume string) bool {
	if len(t.GetNames()) > 0 {
		return slices.Contains(t.GetNames(), volume)
	}
	service, name, _ := strings.Cut(volume, ".")
	return service == t.GetService() && (t.GetVolume() == "" || t.GetVolume() == name)
}

// meant are the volumes that a task is about.
func (h *host) meant(t *pb.VolumeTask) ([]*pb.Volume, error) {
	all := h.volumes("")
	if t.GetService() != "" {
		all = append(all, h.volumes(t.GetService())...)
	}
	all = slices.DeleteFunc(all, func(v *pb.Volume) bool { return !named(t, v.GetName()) })
	switch {
	case len(all) > 0:
		return all, nil
	case t.GetService() == "":
		return nil, fmt.Errorf("volume %s is not here", t.GetVolume())
	}
	return nil, fmt.Errorf("volume %s of service %s is not here", t.GetVolume(), t.GetService())
}

// locate says where the raw bases lie.
func (h *host) locate(t *pb.VolumeTask) (*pb.VolumeResult, error) {
	all, err := h.meant(t)
	out := new(pb.VolumeResult)
	for _, v := range all {
		out.Files = append(out.Files, &pb.VolumeFile{Volume: v.GetName(), Path: v.GetPath(), Size: v.GetSize()})
	}
	return out, err
}

// verify compares both ends, of all volumes of the service: they are compared in epochs of the group. Without a replica, or if
// asked to, it compares what is here with the checksums.
func (h *host) verify(ctx context.Context, t *pb.VolumeTask, report func(*pb.TaskProgress)) (*pb.VolumeResult, error) {
	if t.GetLocal() {
		return h.scrub(ctx, t, report)
	}
	g, err := h.store.Group(t.GetService())
	if err != nil {
		return nil, noReplica(t.GetService(), err)
	}
	if st := g.Status(); !st.Connected {
		return nil, fmt.Errorf("the replica of service %s is out of reach: %s; --local verifies what is here", t.GetService(), st.Err)
	}
	out := new(pb.VolumeResult)
	found, err := g.Verify(ctx, func(done, total int64) {
		out.Compared = done
		report(&pb.TaskProgress{Done: done, Total: total, Message: "comparing"})
	})
	if err != nil {
		return nil, err
	}
	addDifferences(out, slices.DeleteFunc(found, func(d storage.Difference) bool { return !named(t, d.Volume) }))
	return out, nil
}

// keepSnapshot has the other end keep the point of this moment.
func (h *host) keepSnapshot(ctx context.Context, t *pb.VolumeTask) (*pb.VolumeResult, error) {
	g, err := h.store.Group(t.GetService())
	if err != nil {
		return nil, noReplica(t.GetService(), err)
	}
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	if err := g.Keep(ctx, t.GetSnapshot(), time.Duration(t.GetKeepSeconds())*time.Second); err != nil {
		return nil, err
	}
	return new(pb.VolumeResult), g.Drain(ctx)
}

func (h *host) snapshots(t *pb.VolumeTask) (*pb.VolumeResult, error) {
	b, err := h.store.Standby(t.GetService())
	if err != nil {
		return nil, noReplica(t.GetService(), err)
	}
	cuts, err := b.Cuts()
	out := new(pb.VolumeResult)
	for _, c := range cuts {
		out.Snapshots = append(out.Snapshots, viewCut(c))
	}
	return out, err
}

func viewCut(c storage.Cut) *pb.VolumeSnapshot {
	s := &pb.VolumeSnapshot{Name: c.Name, Time: timestamppb.New(c.Time), Point: c.Epoch}
	if !c.Until.IsZero() {
		s.Until = timestamppb.New(c.Until)
	}
	return s
}

func (h *host) deleteSnapshot(t *pb.VolumeTask) (*pb.VolumeResult, error) {
	b, err := h.store.Standby(t.GetService())
	if err != nil {
		return nil, noReplica(t.GetService(), err)
	}
	return new(pb.VolumeResult), b.DeleteCut(t.GetSnapshot())
}

// noReplica says what to do about a replication that is not here.
func noReplica(service string, err error) error {
	if errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("the volumes of service %s are not replicated yet", service)
	}
	return err
}
