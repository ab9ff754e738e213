package storage

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/godwit-project/godwit/storage/disk"
	"github.com/godwit-project/godwit/storage/disk/vfs"
)

const (
	metaName   = "volume.json"
	baseName   = "base.raw"
	metaFormat = 1
	maxName    = 100
)

// metadata is what is durable about a volume beside its content.
type metadata struct {
	Format int    `json:"format"`
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	Role   string `json:"role"`
	// Device is the block device that the volume lies on, and DeviceID what the kernel knows it by, as far as it does; empty for a
	// volume of a file.
	Device   string `json:"device,omitempty"`
	DeviceID string `json:"deviceId,omitempty"`
	// Epoch is the one that the volume is bound to; Owner that of the primary which a fenced volume was.
	Epoch uint64 `json:"epoch"`
	Owner uint64 `json:"owner,omitempty"`
	// Attempt is the highest epoch under which this volume was a source; Aborted the highest that was given up. Verbs of
	// epochs up to Aborted are worth nothing.
	Attempt uint64 `json:"attempt,omitempty"`
	Aborted uint64 `json:"aborted,omitempty"`
	// Complete: see Status.
	Complete bool `json:"complete,omitempty"`
	// Touched says that a source has been let in to write to this replica.
	Touched bool `json:"touched,omitempty"`
	// Spoiled says that the replica's disk failed, so that its content is unknown.
	Spoiled bool `json:"spoiled,omitempty"`
	// Growing is the size that a volume is about to have, 0 for none.
	Growing int64 `json:"growing,omitempty"`
	// Group is the standby that the volume belongs to, while it is a replica.
	Group  string `json:"group,omitempty"`
	Socket string `json:"socket,omitempty"`
}

// disk is where the bytes of a volume of that folder are, and how they are opened.
func (m *metadata) disk(dir string) (path string, opts disk.Options) {
	path, opts = filepath.Join(dir, baseName), disk.Options{Checksums: true}
	if m.Device != "" {
		path, opts.State, opts.Size = m.Device, path, m.Size
	}
	return path, opts
}

var validName = regexp.MustCompile(`^[a-z0-9-][a-z0-9.-]*$`)

func (s Spec) check() error {
	if !validName.MatchString(s.Name) || len(s.Name) > maxName {
		return fmt.Errorf("volume name %q: use at most %d of a-z, 0-9, dot and dash, not beginning with a dot", s.Name, maxName)
	}
	if s.Size <= 0 || s.Size%512 != 0 || s.Size > 1<<62 {
		return fmt.Errorf("volume %s: size %d must be a positive multiple of 512 bytes", s.Name, s.Size)
	}
	return nil
}

func (m *metadata) save(dir string) error {
	m.Format = metaFormat
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return vfs.Replace(vfs.OS{}, filepath.Join(dir, metaName), append(b, '\n'))
}

func loadMetadata(dir string) (metadata, error) {
	var m metadata
	path := filepath.Join(dir, metaName)
	b, err := os.ReadFile(path)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("read %s: %w", path, err)
	}
	if m.Format != metaFormat {
		return m, fmt.Errorf("read %s: format %d, this program knows %d only", path, m.Format, metaFormat)
	}
	switch m.Role {
	case RolePrimary, RoleReplica, RoleFenced:
	default:
		return m, fmt.Errorf("read %s: unknown role %q", path, m.Role)
	}
	return m, Spec{Name: m.Name, Size: m.Size}.check()
}
