package controller

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/godwit-project/godwit/api"
	"github.com/godwit-project/godwit/cluster/identity"
)

// blobs keeps what users upload (kernels, images), each under the name of its content: "b3-" and the BLAKE3 hash.
type blobs struct {
	dir    string
	logger *slog.Logger
}

// uploadPrefix begins the name of what is being uploaded.
const uploadPrefix = "upload-"

// openBlobs makes the folder if need be, and removes what a controller that was killed had received in part.
func openBlobs(dir string, logger *slog.Logger) (*blobs, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder of uploads: %w", err)
	}
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), uploadPrefix) {
			err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("clear what was uploaded in part: %w", err)
	}
	return &blobs{dir: dir, logger: logger}, nil
}

func (b *blobs) has(name string) bool {
	if !api.IsBlobName(name) {
		return false
	}
	_, err := os.Stat(filepath.Join(b.dir, name))
	return err == nil
}

// ServeHTTP answers HEAD, GET (both also to agents) and PUT of /blobs/NAME.
func (b *blobs) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/blobs/")
	if !api.IsBlobName(name) {
		http.Error(w, "not the name of a blob: want b3- and 64 hexadecimal digits", http.StatusBadRequest)
		return
	}
	roles := []identity.Role{identity.Operator}
	if r.Method != http.MethodPut {
		roles = append(roles, identity.Agent, identity.Controller)
	}
	if _, err := requireRole(r.Context(), roles...); err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		http.ServeFile(w, r, filepath.Join(b.dir, name))
	case http.MethodPut:
		if err := b.put(name, r.Body); err != nil {
			b.logger.Error("upload failed", "blob", name, "err", err)
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusCreated)
	default:
		http.Error(w, "use HEAD, GET or PUT", http.StatusMethodNotAllowed)
	}
}

func (b *blobs) put(name string, body io.Reader) (err error) {
	if b.has(name) {
		return nil
	}
	f, err := os.CreateTemp(b.dir, uploadPrefix+"*")
	if err != nil {
		return fmt.Errorf("store blob %s: %w", name, err)
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if rerr := os.Remove(f.Name()); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}()
	h := api.NewBlobHash()
	if _, err := io.Copy(io.MultiWriter(f, h), body); err != nil {
		return fmt.Errorf("receive blob %s: %w", name, err)
	}
	if got := h.Name(); got != name {
		return fmt.Errorf("receive blob %s: the content is that of %s: it changed on the way, or while it was read", name, got)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("store blob %s: %w", name, err)
	}
	if err := os.Rename(f.Name(), filepath.Join(b.dir, name)); err != nil {
		return fmt.Errorf("store blob %s: %w", name, err)
	}
	return nil
}
