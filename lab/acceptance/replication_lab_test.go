//go:build lab

package acceptance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// flip changes one bit of a file behind the agent's back, as a bad disk would.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// quiet lets the guest write nothing any more, so that what is compared stays.
func (w *world) quiet(t *testing.T) {
	t.Helper()
	if r := w.ask(t, "7001", "set dirty=1MiB writes=0"); r.code != 0 {
		t.Fatalf("the guest does not rest: %v", r)
	}
}

// TestAStandingReplicationThroughItsLife is one service's: applied, changed, its agents killed, verified, exported, taken back.
func TestAStandingReplicationThroughItsLife(t *testing.T) {
	w := up(t, "acc-repl", "--bandwidth", "400mbit")
	w.startReplicated(t, "async")

	t.Run("the mode is changed while it runs", func(t *testing.T) {
		for _, mode := range []string{"sync", "flush", "async", "sync"} {
			w.must(t, "apply", "-f", manifest(t, shop.protectedBy(w, mode)))
			w.inStep(t, "west", mode)
		}
		w.verify(t, w.acked(t))
	})

	t.Run("agents are killed and go on", func(t *testing.T) {
		for _, agent := range []string{"agent west-host", "agent east-host"} {
			before := w.acked(t)
			if err := syscall.Kill(w.daemons(t)[agent], syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			eventually(t, time.Minute, func() string {
				if now := w.acked(t); now < before+20 {
					return fmt.Sprintf("the guest writes no more: %d, %d", before, now)
				}
				return ""
			})
			w.inStep(t, "west", "sync")
		}
		w.verify(t, w.acked(t))
	})

	t.Run("a flipped byte is found at either end", func(t *testing.T) {
		w.quiet(t)
		w.must(t, "volume", "verify", service)
		w.must(t, "volume", "verify", service, "--local")
		flip(t, w.copies(t)["east"].Path, 12345)
		if r := w.godwit(t, "volume", "verify", service); r.code != 1 || !strings.Contains(r.out, "shop.data differs from its replica at 12288") {
			t.Errorf("a flipped byte of the replica: %v", r)
		}
		w.must(t, "volume", "verify", service)
		flip(t, w.copies(t)["west"].Path, 54321)
		r := w.godwit(t, "volume", "verify", service+"/data", "--local", "-o", "json")
		var found struct {
			Local       bool
			Differing   int
			Differences []struct{ Offset, Length int64 }
		}
		if err := json.Unmarshal([]byte(r.out), &found); err != nil || r.code != 1 || !found.Local || found.Differing != 1 || found.Differences[0].Offset != 53248 {
			t.Errorf("a flipped byte of the owner's: %v", r)
		}
		flip(t, w.copies(t)["west"].Path, 54321)
		w.must(t, "volume", "verify", service, "--local")
	})

	t.Run("it is exported while it runs", func(t *testing.T) {
		dir := t.TempDir()
		raw, qcow2 := filepath.Join(dir, "data.raw"), filepath.Join(dir, "data.qcow2")
		w.must(t, "volume", "snapshot", "create", service, "then")
		w.must(t, "volume", "export", service+"/data", "--to", raw)
		w.must(t, "volume", "export", service+"/data", "--to", qcow2, "--snapshot", "then")
		want, err := os.ReadFile(w.copies(t)["west"].Path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(raw); err != nil || string(got) != string(want) {
			t.Errorf("the copy is another one: %v", err)
		}
		if info, err := os.Stat(qcow2); err != nil || info.Size() > int64(len(want)) {
			t.Errorf("the copy as qcow2: %v", err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
			t.Errorf("files are left: %v %v", left, err)
		}
		if r := w.godwit(t, "volume", "export", service+"/other", "--to", filepath.Join(dir, "other.raw")); r.code != 1 || !strings.Contains(r.err, "other") {
			t.Errorf("a volume that is not there: %v", r)
		}
		if out := w.must(t, "volume", "snapshot", "list", service, "-o", "json"); strings.Contains(out, "export-") {
			t.Errorf("the snapshot of an export is left: %s", out)
		}
	})

	t.Run("a snapshot is read while it runs", func(t *testing.T) {
		if _, err := exec.LookPath("nbdcopy"); err != nil {
			t.Skip("nbdcopy is not installed (libnbd-bin)")
		}
		dir := t.TempDir()
		socket, raw, copied := filepath.Join(dir, "then.sock"), filepath.Join(dir, "then.raw"), filepath.Join(dir, "copied.raw")
		w.must(t, "volume", "export", service+"/data", "--to", raw, "--snapshot", "then")
		serving, stop := context.WithCancel(t.Context())
		defer stop()
		ended := make(chan result, 1)
		go func() {
			ended <- w.run(serving, func(c *exec.Cmd) {
				c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
			}, "volume", "snapshot", "serve", service+"/data", "then", "--socket", socket)
		}()
		eventually(t, time.Minute, func() string {
			if _, err := os.Stat(socket); err != nil {
				return err.Error()
			}
			return ""
		})
		if out, err := exec.CommandContext(t.Context(), "nbdcopy", "nbd+unix:///?socket="+socket, copied).CombinedOutput(); err != nil {
			t.Errorf("nbdcopy: %v: %s", err, out)
		}
		want, err := os.ReadFile(raw)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(copied); err != nil || string(got) != string(want) {
			t.Errorf("what is served is not what is exported: %v", err)
		}
		stop()
		if r := <-ended; r.code != 0 {
			t.Errorf("interrupted: %v", r)
		}
		if _, err := os.Stat(socket); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the socket is left: %v", err)
		}
	})

	t.Run("it goes back to a snapshot", func(t *testing.T) {
		then := stamps(t, w.copies(t)["west"].Path)
		if r := w.ask(t, "7001", "set dirty=1MiB writes=200"); r.code != 0 {
			t.Fatal(r)
		}
		before := w.acked(t)
		eventually(t, time.Minute, func() string {
			if now := w.acked(t); now < before+500 {
				return fmt.Sprintf("only %d writes were made", now-before)
			}
			return ""
		})
		w.must(t, "volume", "snapshot", "restore", service, "then")
		w.answering(t)
		now := stamps(t, w.copies(t)["east"].Path)
		later, same := 0, 0
		for block, s := range now {
			if was, there := then[block]; there && was == s {
				same++
			} else if s[0] == was[0] {
				later++
			}
		}
		if later > 0 || same < 100 {
			t.Errorf("%d blocks have what was written after the snapshot, %d what was there", later, same)
		}
		w.inStep(t, "east", "sync")
		if here := w.machines(t, "west-host"); len(here) != 0 {
			t.Error("the old server still runs")
		}
	})
	t.Run("its volume grows and is filled anew", func(t *testing.T) {
		w.quiet(t)
		file := filepath.Join(t.TempDir(), "kept.qcow2")
		w.must(t, "volume", "export", service+"/data", "--to", file)
		then := stamps(t, w.copies(t)["east"].Path)
		for word, args := range map[string][]string{
			"volumes grow only": {"resize", service + "/data", "32MiB", "--restart"},
			"other":             {"resize", service + "/other", "1GiB", "--restart"},
			"are needed":        {"resize", service + "/data", "900TiB", "--restart"},
			"--restart":         {"resize", service + "/data", "80MiB"},
		} {
			if r := w.godwit(t, append([]string{"volume"}, args...)...); r.code == 0 || !strings.Contains(r.err, word) {
				t.Errorf("%q: %v", args, r)
			}
		}
		w.must(t, "volume", "resize", service+"/data", "80MiB", "--restart")
		w.answering(t)
		if info, err := os.Stat(w.copies(t)["east"].Path); err != nil || info.Size() != 80<<20 {
			t.Errorf("it has another size: %v %v", info, err)
		}
		w.must(t, "volume", "import", file, service+"/data", "--restart")
		w.answering(t)
		w.quiet(t)
		same := 0
		for block, s := range stamps(t, w.copies(t)["east"].Path) {
			if then[block] == s {
				same++
			}
		}
		if same < 100 {
			t.Errorf("only %d blocks hold what was imported, of %d", same, len(then))
		}
		w.inStep(t, "east", "sync")
		w.must(t, "volume", "verify", service)
	})
	w.must(t, "delete", "service", service)
}
