package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/godwit-project/godwit/api"
	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/storage"
)

// fetch makes sure that a blob is here and returns its path. Its name is the hash of its content, which is checked.
func (h *host) fetch(ctx context.Context, name string) (path string, err error) {
	path = filepath.Join(h.dir, "blobs", filepath.Base(name))
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.link.base+"/blobs/"+name, nil)
	if err != nil {
		return "", fmt.Errorf("fetch blob %s: %w", name, err)
	}
	res, err := h.link.client.Do(req)
	if err != nil {
		return "", fmt.Errorf("fetch blob %s: %w", name, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("fetch blob %s: the controller says %s", name, res.Status)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return "", fmt.Errorf("fetch blob %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, removed(f.Name())) }()
	hash := api.NewBlobHash()
	_, err = io.Copy(io.MultiWriter(f, hash), res.Body)
	if err := errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("fetch blob %s: %w", name, err)
	}
	if got := hash.Name(); got != name {
		return "", fmt.Errorf("fetch blob %s: what came is %s: it was damaged on the way", name, got)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return "", fmt.Errorf("fetch blob %s: %w", name, err)
	}
	return path, nil
}

// removed removes a file that may be gone already.
func removed(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// importImage fills a volume with an image, raw or qcow2. The blob is not kept. One at a time: two services may come from
// one image.
func (h *host) importImage(ctx context.Context, v *storage.Volume, spec *pb.VolumeSpec) (err error) {
	h.imports.Lock()
	defer h.imports.Unlock()
	path, err := h.fetch(ctx, spec.GetImage())
	if err != nil {
		return err
	}
	info, err := imageInfo(ctx, path)
	if err != nil {
		return fmt.Errorf("volume %s: %w", spec.GetName(), err)
	}
	if info.Size > spec.GetSize() {
		return fmt.Errorf("volume %s: the image is %d MiB large, the volume only %d MiB: raise its size", spec.GetName(), info.Size>>20, spec.GetSize()>>20)
	}
	raw := path
	if info.Format != "raw" {
		raw = path + ".raw"
		defer func() { err = errors.Join(err, removed(raw)) }()
		if _, err := qemuImg(ctx, "convert", "-f", info.Format, "-O", "raw", path, raw); err != nil {
			return fmt.Errorf("volume %s: %w", spec.GetName(), err)
		}
	}
	if err := v.Import(ctx, raw, nil); err != nil {
		return err
	}
	return removed(path)
}

type image struct {
	Format string `json:"format"`
	Size   int64  `json:"virtual-size"`
	// Backing is a file that a qcow2 image depends on: it is not here.
	Backing string `json:"backing-filename"`
	// Specific names the file that the content of a qcow2 image is in, when it is not in the image.
	Specific struct {
		Data struct {
			File string `json:"data-file"`
		} `json:"data"`
	} `json:"format-specific"`
}

// imageInfo looks at an image. Formats other than raw and qcow2 are refused, and so are images that refer to others:
// the name of another file in an uploaded image must never make this machine open that file.
func imageInfo(ctx context.Context, path string) (image, error) {
	var i image
	out, err := qemuImg(ctx, "info", "--output=json", path)
	if err != nil {
		return i, err
	}
	if err := json.Unmarshal(out, &i); err != nil {
		return i, fmt.Errorf("qemu-img info: %w", err)
	}
	switch {
	case i.Format != "raw" && i.Format != "qcow2":
		return i, fmt.Errorf("image format %s: want raw or qcow2 (qemu-img convert -O qcow2 makes one)", i.Format)
	case i.Specific.Data.File != "":
		return i, fmt.Errorf("the content of the image is in another file, %s: put it in (qemu-img convert -O qcow2)", i.Specific.Data.File)
	case i.Backing != "":
		return i, fmt.Errorf("the image depends on %s: flatten it first (qemu-img convert -O qcow2)", i.Backing)
	}
	return i, nil
}

func qemuImg(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "qemu-img", args...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return nil, fmt.Errorf("qemu-img is not installed: apt-get install qemu-utils: %w", err)
		}
		return nil, fmt.Errorf("qemu-img %s: %w: %s", args[0], err, bytes.TrimSpace(complaint.Bytes()))
	}
	return out.Bytes(), nil
}
