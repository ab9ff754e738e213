package native

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// ErrImage refuses what is not the image of a process.
var ErrImage = errors.New("not an image of a process, or cut off")

const (
	manifestFile = "godwit.json"
	// maxFiles and maxManifest bound what others may send.
	maxFiles    = 1 << 16
	maxManifest = 1 << 20
)

// manifest is what an image has besides CRIU's files: what in it is to be replaced.
type manifest struct {
	PID     int      `json:"pid"`               // of the program, in its place
	Sockets []uint64 `json:"sockets,omitempty"` // inodes of unix sockets that lead out
	Output  uint64   `json:"output"`            // inode of the pipe to which it writes
}

func writeManifest(dir string, m manifest) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, manifestFile), b, 0o600)
}

func readManifest(dir string) (m manifest, err error) {
	f, err := os.Open(filepath.Join(dir, manifestFile))
	if err != nil {
		return m, errors.Join(ErrImage, err)
	}
	defer f.Close()
	if err := json.NewDecoder(io.LimitReader(f, maxManifest)).Decode(&m); err != nil {
		return m, errors.Join(ErrImage, err)
	}
	if m.PID < firstPID {
		return m, fmt.Errorf("%w: process %d", ErrImage, m.PID)
	}
	return m, nil
}

// Send writes the files of an image.
func Send(w io.Writer, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	all := tar.NewWriter(w)
	for _, e := range entries {
		if !e.Type().IsRegular() || e.Name() == manifestFile {
			continue
		}
		if err := sendFile(all, dir, e.Name()); err != nil {
			return fmt.Errorf("send %s: %w", e.Name(), err)
		}
	}
	if err := sendFile(all, dir, manifestFile); err != nil {
		return fmt.Errorf("send %s: %w", manifestFile, err)
	}
	return all.Close()
}

func sendFile(w *tar.Writer, dir, name string) error {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	i, err := f.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: name, Size: i.Size(), Mode: 0o600}); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}

// Receive writes what Send has sent to an empty directory: at most so many bytes, and nothing outside of it. Without its manifest, which
// comes last, an image is not whole, and refused.
func Receive(r io.Reader, dir string, most int64) error {
	limited := &io.LimitedReader{R: r, N: most}
	all := tar.NewReader(limited)
	for n := 0; ; n++ {
		h, err := all.Next()
		switch {
		case err != nil && limited.N <= 0:
			return fmt.Errorf("%w: more than %d bytes", ErrImage, most)
		case err != nil:
			return fmt.Errorf("%w: %w", ErrImage, err)
		case n == maxFiles || h.Typeflag != tar.TypeReg || !filepath.IsLocal(h.Name) || filepath.Base(h.Name) != h.Name:
			return fmt.Errorf("%w: file %d is called %.100q", ErrImage, n, h.Name)
		}
		if err := receiveFile(filepath.Join(dir, h.Name), all); err != nil {
			return errors.Join(ErrImage, err)
		}
		if h.Name == manifestFile {
			return nil
		}
	}
}

func receiveFile(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}
