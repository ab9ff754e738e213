//go:build lab

package acceptance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// hostView is what these tests read of a host.
type hostView struct {
	Name, Problem        string
	Ready                bool
	MachineTypes         []string `json:"machineTypes"`
	MemoryFree, DiskFree int64
}

// south is a third site that a user adds to the lab: an edge and a host, joined with tokens, in the witness's node. Its host
// is started anew with whatever is wrong with it.
type south struct {
	w          *world
	edge, host *exec.Cmd
	dir        string
}

const (
	southEdgeAddress = "192.0.2.14:7445"
	southHostAddress = "192.0.2.14:7446"
)

func addSouth(t *testing.T, w *world) *south {
	t.Helper()
	s := &south{w: w, dir: t.TempDir()}
	for _, role := range []string{"edge", "host"} {
		name := "south-" + role
		token := strings.TrimSpace(w.must(t, "token", "create", "--role", role, "--site", "south", "--name", name))
		r := w.exec(t, "witness", w.binary, "join", "--token", token, "--controller", "192.0.2.14:7443", "--data", filepath.Join(s.dir, role))
		if r.code != 0 {
			t.Fatalf("join %s: %v", name, r)
		}
	}
	t.Cleanup(func() { s.end(s.edge); s.end(s.host) })
	s.edge = s.begin(t, "true", nil, "edge", "--address", southEdgeAddress, "--uplink-address", "192.0.2.14")
	s.restart(t, "true", func(hostView) bool { return true }, "PATH=/nonexistent")
	s.end(s.host)
	return s
}

// begin starts an agent in the witness's node; before is a shell's line that goes before it, in mounts of its own.
func (s *south) begin(t *testing.T, before string, env []string, role string, flags ...string) *exec.Cmd {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, role+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	shell, err := exec.LookPath("bash")
	if err != nil {
		t.Skip(err)
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip(err)
	}
	argv := append([]string{"lab", "exec", "--name", s.w.name, "witness", unshare, "--mount", shell, "-c", before + ` && exec env "$@"`, "south"}, env...)
	argv = append(argv, s.w.binary, "agent", "--data", filepath.Join(s.dir, role))
	cmd := s.w.alongside(t, append(argv, flags...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// end ends an agent with all that was started to run it.
func (s *south) end(cmd *exec.Cmd) {
	if cmd != nil && cmd.ProcessState == nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	}
}

// restart gives the host's agent another environment, and waits until the controller knows of it.
func (s *south) restart(t *testing.T, before string, known func(hostView) bool, env ...string) {
	t.Helper()
	s.end(s.host)
	eventually(t, 30*time.Second, func() string { // or the one that has ended would be taken for the new one
		for _, h := range get[listOf[hostView]](t, s.w, "hosts").Items {
			if h.Name == "south-host" && h.Ready {
				return "the controller still takes the host that has ended for ready"
			}
		}
		return ""
	})
	s.host = s.begin(t, before, env, "host", "--address", southHostAddress)
	eventually(t, 90*time.Second, func() string {
		for _, h := range get[listOf[hostView]](t, s.w, "hosts").Items {
			if h.Name == "south-host" && h.Ready && known(h) {
				return ""
			}
		}
		log, _ := os.ReadFile(filepath.Join(s.dir, "host.log"))
		return fmt.Sprintf("the controller does not see the host as it is; its agent says: %s", log)
	})
}

// otherQEMU gives the host's agent a path on which QEMU is another one.
func otherQEMU(t *testing.T, machine, cpu string) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, "qemu-system-x86_64")); err != nil {
		t.Fatal(err)
	}
	return []string{"PATH=" + dir, otherMachine + "=" + machine, otherCPU + "=" + cpu}
}
