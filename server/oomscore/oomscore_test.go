package oomscore

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What the kernel has is a file here, since to protect a program takes CAP_SYS_RESOURCE, which containers have seldom.
func TestAProtectedProgramIsExposedAndNoOther(t *testing.T) {
	file := filepath.Join(t.TempDir(), "oom_score_adj")
	for before, want := range map[string]string{"700\n": "700\n", "0\n": "0\n", "-900\n": "0", "-1000\n": "0"} {
		if err := os.WriteFile(file, []byte(before), 0o600); err != nil {
			t.Fatal(err)
		}
		expose(file)
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("%q became %q, want %q: %v", before, got, want, err)
		}
	}
	expose(filepath.Join(t.TempDir(), "ended"))
}

// The kernel's own file has to be where Expose looks for it, and to take what is written.
func TestAProgramIsExposedToTheKernel(t *testing.T) {
	cmd := exec.Command("/bin/sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	file := fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid)
	if err := os.WriteFile(file, []byte("-900"), 0); err != nil {
		t.Skipf("to protect a program takes CAP_SYS_RESOURCE: %v", err)
	}
	Expose(cmd.Process.Pid)
	if got, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(got)) != "0" {
		t.Errorf("its score is %s, %v", got, err)
	}
}
