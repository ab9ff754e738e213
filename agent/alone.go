package agent

import (
	"context"
	"errors"
	"fmt"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/storage"
)

// place makes a volume that stands alone, and that no service uses, what it is to be. What was done stands in the shelf, under the
// epoch of the wish, so that no content is replaced twice.
func (h *host) place(ctx context.Context, p *pb.PlaceVolume) error {
	if err := h.placeOnce(ctx, p); err != nil {
		return fmt.Errorf("volume %s: %w", p.GetName(), err)
	}
	return nil
}

func (h *host) placeOnce(ctx context.Context, p *pb.PlaceVolume) error {
	name, epoch := p.GetName(), p.GetEpoch()
	done := false
	err := h.shelf.change(name, true, func(e *entry) error {
		if epoch < e.Serial {
			return superseded("wish %d is over, %d has been seen since", epoch, e.Serial)
		}
		e.Serial, done = epoch, e.Home == epoch
		return nil
	})
	if err != nil {
		return err
	}
	v, err := h.store.Volume(name)
	switch {
	case errors.Is(err, storage.ErrNotFound), err != nil && p.GetRemove(): // the store knows what of the damaged may go
		v = nil
	case err != nil:
		return err
	case v.Status().Epoch > epoch:
		return superseded("wish %d is over: it has been used under epoch %d since", epoch, v.Status().Epoch)
	}
	switch {
	case p.GetRemove():
		err = h.takeAway(ctx, name, v, epoch)
	case done && v != nil:
	case v == nil:
		v, err = h.store.Create(ctx, storage.Spec{Name: name, Size: p.GetSize(), Device: p.GetDevice(), Overwrite: p.GetImage() != ""}, epoch)
		err = h.filled(ctx, v, p, err)
	default:
		v, err = h.shaped(ctx, v, p)
		err = h.filled(ctx, v, p, err)
	}
	if err != nil {
		return err
	}
	return h.shelf.change(name, true, func(e *entry) error {
		e.Home = epoch
		return nil
	})
}

// shaped makes a volume as large as it is to be.
func (h *host) shaped(ctx context.Context, v *storage.Volume, p *pb.PlaceVolume) (*storage.Volume, error) {
	name := p.GetName()
	if err := v.Left(ctx); err != nil {
		return nil, err
	}
	if err := h.store.Grow(ctx, name, p.GetSize()); err != nil {
		return nil, err
	}
	v, err := h.store.Volume(name) // which growing has opened anew
	if err != nil {
		return nil, err
	}
	return v, v.Bind(p.GetEpoch())
}

// filled gives a volume the content that it is to have, if err is nil.
func (h *host) filled(ctx context.Context, v *storage.Volume, p *pb.PlaceVolume, err error) error {
	if err != nil || p.GetImage() == "" {
		return err
	}
	return h.importImage(ctx, v, &pb.VolumeSpec{Name: p.GetName(), Size: p.GetSize(), Image: p.GetImage()})
}

// takeAway deletes a volume that nobody uses, and that may be out of order, or not there.
func (h *host) takeAway(ctx context.Context, name string, v *storage.Volume, epoch uint64) error {
	if v != nil {
		if err := v.Left(ctx); err != nil {
			return err
		}
	}
	return h.store.Delete(ctx, name, epoch)
}

// attach finds a volume that stands alone for a service that is to use it. It is never made here: an empty one would pass for it.
func (h *host) attach(spec *pb.VolumeSpec, epoch uint64) (*storage.Volume, error) {
	v, err := h.store.Volume(spec.GetVolume())
	if err != nil {
		return nil, err
	}
	if v.Size() != spec.GetSize() {
		return nil, fmt.Errorf("volume %s has %d bytes here, not %d", spec.GetVolume(), v.Size(), spec.GetSize())
	}
	return v, v.Bind(epoch)
}

// leave ends a service's use of its volumes: those that stand alone are kept, if asked, and bound to the epoch under which that was
// asked, so that nothing older touches them; all others are deleted. What cannot be deleted does not keep the others.
func (h *host) leave(ctx context.Context, s *pb.StopService) error {
	var errs []error
	errs = append(errs, h.forgetExternal(s.GetSpec(), s.GetEpoch()))
	for _, spec := range lying(s.GetSpec()) {
		name := volumeName(s.GetService(), spec)
		if !s.GetKeep() || spec.GetVolume() == "" {
			errs = append(errs, h.store.Delete(ctx, name, s.GetEpoch()))
			continue
		}
		v, err := h.store.Volume(name)
		if err == nil {
			err = v.Bind(s.GetEpoch())
		}
		if err == nil {
			err = v.Unserve()
		}
		if !errors.Is(err, storage.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
