package agent

import (
	"context"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
)

// restart ends what runs under an older epoch, so that volumes can be changed which it used. When the service runs under this epoch
// already, all is done.
func (h *host) restart(ctx context.Context, s *pb.StartService) error {
	name := s.GetService().GetName()
	var home uint64
	h.book.view(name, func(e entry) { home = e.Home })
	if home == s.GetEpoch() {
		return nil
	}
	if err := h.platform.Destroy(ctx, name); err != nil {
		return err
	}
	return h.reshape(ctx, s)
}

// reshape makes the volumes as large as they are to be, and notes which are to be filled anew.
func (h *host) reshape(ctx context.Context, s *pb.StartService) error {
	service := s.GetService()
	for _, v := range lying(service) {
		if err := h.store.Grow(ctx, volumeName(service.GetName(), v), v.GetSize()); err != nil {
			return err
		}
		if s.GetRefill()[v.GetName()] == "" {
			continue
		}
		have, err := h.store.Volume(volumeName(service.GetName(), v))
		if err == nil {
			err = have.Left(ctx)
		}
		if err == nil {
			err = h.importing(service.GetName(), v, true)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
