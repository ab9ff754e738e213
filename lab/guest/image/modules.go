package image

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Module is a kernel module, decompressed.
type Module struct {
	Name string // as modules name each other: underscores, no ending
	Code []byte
}

// Resolve returns the wanted modules of moduleDir and everything they depend on, each after what it needs. The dependencies
// are read from the modules themselves: modules.dep is made when a kernel is installed, and this one never is.
func Resolve(moduleDir string, wanted []string) ([]Module, error) {
	files, err := moduleFiles(moduleDir)
	if err != nil {
		return nil, err
	}
	r := resolver{files: files, seen: make(map[string]bool)}
	for _, name := range wanted {
		if err := r.add(name); err != nil {
			return nil, err
		}
	}
	return r.modules, nil
}

type resolver struct {
	files   map[string]string
	seen    map[string]bool
	modules []Module
}

func (r *resolver) add(name string) error {
	if r.seen[name] {
		return nil
	}
	r.seen[name] = true
	path, ok := r.files[name]
	if !ok {
		return fmt.Errorf("kernel module %s: not among the %d modules of this kernel", name, len(r.files))
	}
	code, err := readModule(path)
	if err != nil {
		return fmt.Errorf("kernel module %s: %w", name, err)
	}
	needs, err := dependencies(code)
	if err != nil {
		return fmt.Errorf("kernel module %s: %w", name, err)
	}
	for _, need := range needs {
		if err := r.add(need); err != nil {
			return fmt.Errorf("needed by %s: %w", name, err)
		}
	}
	r.modules = append(r.modules, Module{name, code})
	return nil
}

// moduleFiles maps the name of each module under dir to its file.
func moduleFiles(dir string) (map[string]string, error) {
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if base, _, ok := strings.Cut(entry.Name(), ".ko"); ok && !entry.IsDir() {
			files[canonical(base)] = path
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list kernel modules of %s: %w", dir, err)
	}
	return files, nil
}

// canonical: a file may be called virtio-rng.ko, its module is virtio_rng.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

// dependencies reads the "depends=" entry of the .modinfo section.
func dependencies(code []byte) ([]string, error) {
	object, err := elf.NewFile(bytes.NewReader(code))
	if err != nil {
		return nil, fmt.Errorf("not an ELF object: %w", err)
	}
	section := object.Section(".modinfo")
	if section == nil {
		return nil, errors.New("has no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("read .modinfo: %w", err)
	}
	var names []string
	for entry := range bytes.SplitSeq(info, []byte{0}) {
		list, ok := bytes.CutPrefix(entry, []byte("depends="))
		if !ok {
			continue
		}
		for name := range strings.SplitSeq(string(list), ",") {
			if name != "" {
				names = append(names, canonical(name))
			}
		}
	}
	return names, nil
}

// readModule undoes the compressions that kernels are packaged with.
func readModule(path string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	switch filepath.Ext(path) {
	case ".ko":
		return raw, nil
	case ".gz":
		r, err := gzip.NewReader(bytes.NewReader(raw))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(r)
	case ".zst":
		r, err := zstd.NewReader(nil)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return r.DecodeAll(raw, nil)
	case ".xz":
		code, err := exec.Command("xz", "--decompress", "--stdout", path).Output()
		if err != nil {
			return nil, fmt.Errorf("xz (package xz-utils): %w", err)
		}
		return code, nil
	}
	return nil, fmt.Errorf("unknown compression of %s", path)
}
