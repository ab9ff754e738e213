//go:build lab

package acceptance

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// speed is what a guest says of its disk.
type speed struct {
	Operations int     `json:"operations"`
	PerSecond  float64 `json:"per_second"`
	MedianUs   float64 `json:"median_us"`
	P99Us      float64 `json:"p99_us"`
	Error      string  `json:"error"`
}

// bare boots the lab's guest without Godwit: on a raw file beside the lab's volumes, with the host's page cache, as Godwit's volumes
// have it. It returns the address of the control port.
func (w *world) bare(t *testing.T) (control string) {
	t.Helper()
	disk, console := filepath.Join(w.dir, "bare.raw"), filepath.Join(t.TempDir(), "console")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 64<<20); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	control = l.Addr().String()
	l.Close()
	cmd := exec.Command("qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-cpu", "Westmere-v1", "-m", "128", "-nodefaults", "-display", "none", "-no-reboot",
		"-serial", "file:"+console, "-kernel", filepath.Join(w.guest, "vmlinuz"), "-initrd", filepath.Join(w.guest, "initrd.gz"),
		"-append", "console=ttyS0 "+onFiles.words, "-drive", "file="+disk+",format=raw,if=virtio,cache=writeback",
		"-netdev", "user,id=net,hostfwd=tcp:"+control+"-:7001", "-device", "virtio-net-pci,netdev=net")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait(); _ = os.Remove(disk) })
	eventually(t, 2*time.Minute, func() string {
		if said, _ := os.ReadFile(console); !strings.Contains(string(said), "godwit-guest ready") {
			return fmt.Sprintf("the bare guest is not ready: %s", lastLine(said))
		}
		return ""
	})
	return control
}

// askBare sends a line to the bare guest.
func askBare(t *testing.T, control, line string) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", control, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(conn, line); err != nil {
		t.Fatal(err)
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return answer
}

func speedOf(t *testing.T, answer string) speed {
	t.Helper()
	var s speed
	if err := json.Unmarshal([]byte(answer), &s); err != nil || s.Error != "" || s.Operations == 0 {
		t.Fatalf("the guest measured %q: %v", answer, err)
	}
	return s
}

// TestADiskIsMeasuredInsideAGuest compares 4 KiB at random places of a volume with the same of a raw file, as a program in the guest sees
// it, in turns. What it asserts is that all of it works; the figures are for whoever reads the log.
func TestADiskIsMeasuredInsideAGuest(t *testing.T) {
	if !soak() {
		t.Skip("GODWIT_SOAK=1 measures; speeds are no part of the default run")
	}
	w := up(t, "acc-meter", "--bandwidth", "400mbit")
	w.must(t, "apply", "-f", manifest(t, onFiles.manifest(w)))
	control := w.bare(t)
	w.answering(t)
	const rounds = 3
	for _, mode := range []string{"", "async"} {
		if mode != "" {
			w.must(t, "apply", "-f", manifest(t, onFiles.protectedBy(w, mode)))
			w.inStep(t, onFiles.site, mode)
		}
		for _, what := range []string{"read", "write", "sync"} {
			var ratios []float64
			var ours, bare speed
			for range rounds {
				ours = speedOf(t, w.ask(t, "7001", "measure "+what+" 1").out)
				bare = speedOf(t, askBare(t, control, "measure "+what+" 1"))
				ratios = append(ratios, ours.PerSecond/bare.PerSecond)
			}
			slices.Sort(ratios)
			t.Logf("GUEST DISK | %s | %s | %.0f /s, median %.0f µs, p99 %.0f µs | bare %.0f /s, median %.0f µs, p99 %.0f µs | ratio %.2f (%.2f to %.2f)",
				what, "replica: "+mode, ours.PerSecond, ours.MedianUs, ours.P99Us, bare.PerSecond, bare.MedianUs, bare.P99Us, ratios[rounds/2], ratios[0], ratios[rounds-1])
		}
	}
}
