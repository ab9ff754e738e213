package agent

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestAnImageWhoseContentIsInAnotherFileIsRefused(t *testing.T) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "outside.qcow2")
	if _, err := qemuImg(t.Context(), "create", "-q", "-f", "qcow2", "-o", "data_file="+filepath.Join(dir, "secret")+",data_file_raw=on", path, "1M"); err != nil {
		t.Fatal(err)
	}
	if i, err := imageInfo(t.Context(), path); err == nil || !strings.Contains(err.Error(), "secret") {
		t.Errorf("%+v, %v, want an error that names the other file", i, err)
	}
}
