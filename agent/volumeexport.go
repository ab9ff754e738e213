package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/godwit-project/godwit/api"
	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/storage"
)

// exportChunk is how much is read at a time, in bytes.
const exportChunk = 1 << 20

// content is a disk that can be read: a volume in use, or one as it was at a snapshot.
type content interface {
	Size() int64
	ReadAt(ctx context.Context, p []byte, off int64) error
}

// export sends the content of a volume to whoever asked, through the controller.
func (h *host) export(ctx context.Context, t *pb.VolumeTask, report func(*pb.TaskProgress)) (*pb.VolumeResult, error) {
	from, done, err := h.contentOf(t)
	if err != nil {
		return nil, err
	}
	defer done()
	reader, writer := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		err := h.transfer(ctx, t.GetTransfer(), reader)
		sent <- errors.Join(err, reader.CloseWithError(err))
	}()
	err = compressed(ctx, writer, from, func(done int64) {
		report(&pb.TaskProgress{Done: done, Total: from.Size(), Message: "exporting"})
	})
	_ = writer.CloseWithError(err) // never fails
	if err := errors.Join(err, <-sent); err != nil {
		return nil, fmt.Errorf("export volume %s of service %s: %w", t.GetVolume(), t.GetService(), err)
	}
	return &pb.VolumeResult{Size: from.Size(), Consistent: t.GetSnapshot() != "" || t.GetService() == "" && h.unused(t)}, nil
}

// unused says that a volume that stands alone has had no user until now.
func (h *host) unused(t *pb.VolumeTask) bool {
	v, err := h.store.Volume(t.GetVolume())
	return err == nil && v.Status().Socket == ""
}

// contentOf opens what is to be sent.
func (h *host) contentOf(t *pb.VolumeTask) (from content, done func(), err error) {
	if t.GetSnapshot() == "" {
		name := hostNameOf(t)
		if x, err := h.external.Disk(name); err == nil {
			return x, func() {}, nil
		}
		v, err := h.store.Volume(name)
		return v, func() {}, err
	}
	view, err := h.cut(t)
	if err != nil {
		return nil, nil, err
	}
	return view, func() { _ = view.Close() }, nil // which never fails
}

// compressed writes the whole disk.
func compressed(ctx context.Context, to io.Writer, from content, told func(done int64)) error {
	z, err := zstd.NewWriter(to, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	buf := make([]byte, exportChunk)
	for off := int64(0); err == nil && off < from.Size(); {
		p := buf[:min(from.Size()-off, int64(len(buf)))]
		if err = from.ReadAt(ctx, p, off); err == nil {
			_, err = z.Write(p)
		}
		if off += int64(len(p)); err == nil {
			told(off)
		}
	}
	if err != nil {
		z.Reset(nil) // so that what was sent does not look complete
		return err
	}
	return z.Close()
}

// transfer hands a stream to the controller, which passes it on.
func (h *host) transfer(ctx context.Context, name string, body io.Reader) error {
	res, err := h.exchange(ctx, name, body)
	if err != nil {
		return err
	}
	return res.Close()
}

// exchange is transfer, and returns what comes back, to be closed by the caller.
func (h *host) exchange(ctx context.Context, name string, body io.Reader) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, h.link.base+api.TransferPath+name, body)
	if err != nil {
		return nil, err
	}
	res, err := h.link.client.Do(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("the controller says %s", res.Status), res.Body.Close())
	}
	return res.Body, nil
}

// scrub compares the disks of a service's volumes with their checksums.
func (h *host) scrub(ctx context.Context, t *pb.VolumeTask, report func(*pb.TaskProgress)) (*pb.VolumeResult, error) {
	var volumes []*storage.Volume
	total, before := int64(0), int64(0)
	meant, err := h.meant(t)
	if err != nil {
		return nil, err
	}
	meant = slices.DeleteFunc(meant, func(v *pb.Volume) bool { return v.GetBacking() == backingExternal })
	if len(meant) == 0 {
		return nil, errors.New("external disks have no checksums here: what keeps them verifies them")
	}
	for _, held := range meant {
		v, err := h.store.Volume(held.GetName())
		if err != nil {
			return nil, err
		}
		volumes = append(volumes, v)
		total += v.Size()
	}
	out := &pb.VolumeResult{Local: true}
	for _, v := range volumes {
		found, err := v.Scrub(ctx, func(done, _ int64) {
			report(&pb.TaskProgress{Done: before + done, Total: total, Message: "reading"})
		})
		if err != nil {
			return nil, err
		}
		before += v.Size()
		out.Compared += found.Checked
		out.Unverified += found.Unverified
		addDifferences(out, found.Bad)
	}
	return out, nil
}

// addDifferences tells the first of them, and counts all.
func addDifferences(out *pb.VolumeResult, found []storage.Difference) {
	for _, d := range found {
		if out.Differing++; len(out.GetDifferences()) < mostDifferences {
			out.Differences = append(out.Differences, &pb.VolumeDifference{Volume: d.Volume, Offset: d.Off, Length: d.Length})
		}
	}
}
