package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/storage"
)

// openSnapshot lets whoever asked read one volume as it was at a snapshot: it speaks NBD over the transfer, for as long as both stay.
// The snapshot is kept meanwhile.
func (h *host) openSnapshot(ctx context.Context, t *pb.VolumeTask) (*pb.VolumeResult, error) {
	view, err := h.cut(t)
	if err != nil {
		return nil, err
	}
	defer func() { _ = view.Close() }() // which never fails
	serving, stop := context.WithCancel(ctx)
	server, way := net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		view.ServeConn(serving, server, t.GetVolume(), h.logger)
	}()
	defer func() {
		stop() // closes the server's end, which ends the request's body
		<-served
		_ = way.Close() // never fails
	}()
	asked, err := h.exchange(ctx, t.GetTransfer(), io.NopCloser(way))
	if err == nil {
		_, err = io.Copy(way, asked)
		if errors.Is(err, io.ErrClosedPipe) { // the client has said goodbye
			err = nil
		}
		stop() // Close waits for the end of what is said
		err = errors.Join(err, asked.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("read volume %s of service %s at snapshot %s: %w", t.GetVolume(), t.GetService(), t.GetSnapshot(), err)
	}
	return &pb.VolumeResult{Size: view.Size(), Consistent: true}, nil
}

// cut opens what a task names, as it was at the task's snapshot.
func (h *host) cut(t *pb.VolumeTask) (*storage.CutView, error) {
	b, err := h.store.Standby(t.GetService())
	if err != nil {
		return nil, noReplica(t.GetService(), err)
	}
	return b.OpenCut(t.GetSnapshot(), hostNameOf(t))
}

// hostNameOf is what this host calls the one volume that a task is about.
func hostNameOf(t *pb.VolumeTask) string {
	if len(t.GetNames()) == 1 {
		return t.GetNames()[0]
	}
	return t.GetService() + "." + t.GetVolume()
}
