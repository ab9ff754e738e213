//go:build lab

package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The service that is moved, and where its clients find it.
const (
	service = "shop"
	address = "203.0.113.10"
)

// TestMain lets this program play another QEMU where the tests need a host that has a different one.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "qemu-system-x86_64" {
		os.Exit(playQEMU())
	}
	os.Exit(m.Run())
}

// soak says whether the long form was asked for.
func soak() bool { return os.Getenv("GODWIT_SOAK") != "" }

// world is a lab of its own, and the binary with which everything in it is done.
type world struct {
	name, dir string
	binary    string
	guest     string         // folder with vmlinuz and initrd.gz
	flags     []string       // of lab up
	pids      map[string]int // of the daemons, looked up beforehand where there is no time later
}

// result is what a command left.
type result struct {
	code     int
	out, err string
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d\nstdout: %s\nstderr: %s", r.code, r.out, r.err)
}

// built finds the binary and the guest, and skips the test where something is missing that a lab needs.
func built(t *testing.T) (binary, guest string) {
	t.Helper()
	binary = os.Getenv("GODWIT_BIN")
	if binary == "" {
		binary = "../../bin/godwit"
	}
	binary, err := filepath.Abs(binary)
	if err != nil {
		t.Fatal(err)
	}
	guest = filepath.Join(filepath.Dir(binary), "guest")
	for _, file := range []string{binary, filepath.Join(guest, "vmlinuz"), filepath.Join(guest, "initrd.gz")} {
		if _, err := os.Stat(file); err != nil {
			t.Skipf("%s is not built: make build, or GODWIT_BIN", file)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("a lab needs root")
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("virtual servers need QEMU: ", err)
	}
	return binary, guest
}

// up starts a lab and takes it down at the end of the test, which must leave nothing.
func up(t *testing.T, name string, flags ...string) *world {
	t.Helper()
	binary, guest := built(t)
	w := &world{name: name, dir: "/run/godwit/lab-" + name, binary: binary, guest: guest, flags: flags}
	t.Cleanup(func() {
		if t.Failed() {
			w.keepLogs(t)
		}
		if r := w.run(context.Background(), nil, "lab", "down", "--name", name); r.code != 0 {
			t.Errorf("lab down: %v", r)
		}
		if left := w.traces(t); len(left) > 0 {
			t.Errorf("lab down left behind: %q", left)
		}
	})
	w.must(t, append([]string{"lab", "up", "--name", name}, flags...)...)
	return w
}

// keepLogs saves what the daemons said, because the lab's folder goes.
func (w *world) keepLogs(t *testing.T) {
	kept, err := os.MkdirTemp("", "godwit-acceptance-"+w.name+"-")
	if err != nil {
		t.Log(err)
		return
	}
	if out, err := exec.Command("cp", "-rT", filepath.Join(w.dir, "logs"), kept).CombinedOutput(); err != nil {
		t.Logf("the logs could not be kept: %v %s", err, out)
		return
	}
	t.Logf("the logs of the lab are in %s", kept)
}

// traces are the marks that a lab makes on the machine: its folder, and its namespaces.
func (w *world) traces(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{w.dir, "/run/netns/godwit-" + w.name + "-*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

// command prepares a call of the binary, with the lab's controller as its server.
func (w *world) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, w.binary, args...)
	cmd.Env = append(os.Environ(), "GODWIT_SERVER=unix://"+w.dir+"/controller.sock")
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// run calls the binary and waits for its end; change (which may be nil) alters the call first.
func (w *world) run(ctx context.Context, change func(*exec.Cmd), args ...string) result {
	const longest = 4 * time.Minute
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	cmd := w.command(ctx, args...)
	if change != nil {
		change(cmd)
	}
	r := finish(cmd)
	if r.code != 0 && ctx.Err() != nil {
		r.err += "\n" + context.Cause(ctx).Error()
	}
	return r
}

func finish(cmd *exec.Cmd) result {
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	r := result{cmd.ProcessState.ExitCode(), out.String(), complaint.String()}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.err += err.Error()
	}
	return r
}

// godwit calls the binary.
func (w *world) godwit(t *testing.T, args ...string) result {
	t.Helper()
	ctx, cancel := during(t)
	defer cancel()
	return w.run(ctx, nil, args...)
}

// must calls the binary, which has to succeed, and returns what it printed.
func (w *world) must(t *testing.T, args ...string) string {
	t.Helper()
	r := w.godwit(t, args...)
	if r.code != 0 {
		t.Fatalf("godwit %s: %v", strings.Join(args, " "), r)
	}
	return r.out
}

// exec runs a command in a node of the lab.
func (w *world) exec(t *testing.T, node string, argv ...string) result {
	t.Helper()
	return w.godwit(t, append([]string{"lab", "exec", "--name", w.name, node}, argv...)...)
}

// get reads objects as JSON.
func get[T any](t *testing.T, w *world, args ...string) T {
	t.Helper()
	var into T
	out := w.must(t, append(append([]string{"get"}, args...), "-o", "json")...)
	if err := json.Unmarshal([]byte(out), &into); err != nil {
		t.Fatalf("get %v printed %q: %v", args, out, err)
	}
	return into
}

// listOf is what get prints of several objects.
type listOf[T any] struct{ Items []T }

// eventually waits until done, which says what is missing as long as it is not; after limit that is the failure.
func eventually(t *testing.T, limit time.Duration, done func() (missing string)) {
	t.Helper()
	const pause = 100 * time.Millisecond
	until, why := patience(t, limit)
	for {
		missing := done()
		if missing == "" {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("%s: %s", why, missing)
		}
		time.Sleep(pause)
	}
}

// manifest writes a manifest into a folder of the test and returns its path.
func manifest(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "service.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// spec describes a service with the guest's usual load; the words change what is asked.
type spec struct {
	name, site, address, memory, volume string
	words                               string // of the guest's command line; empty for the usual load
	image                               string // file that the volume begins with, or empty
}

func (s spec) manifest(w *world) string {
	words, image := "godwit.dirty=2MiB godwit.dirtyspace=64MiB godwit.writes=50 godwit.fsync=5", ""
	if s.words != "" {
		words = s.words
	}
	if s.image != "" {
		image = ", image: " + s.image
	}
	return fmt.Sprintf(`kind: Service
name: %s
site: %s
server:
  memory: %s
  kernel: %s
  initrd: %s
  commandLine: console=ttyS0 %s
volumes:
- {name: data, size: %s%s}
addresses: [%s]
`, s.name, s.site, s.memory, filepath.Join(w.guest, "vmlinuz"), filepath.Join(w.guest, "initrd.gz"), words, s.volume, image, s.address)
}

var shop = spec{name: service, site: "west", address: address, memory: "256MiB", volume: "64MiB"}

// start applies the service and waits until it answers.
func (w *world) start(t *testing.T) {
	t.Helper()
	w.must(t, "apply", "-f", manifest(t, shop.manifest(w)))
	eventually(t, time.Minute, func() string {
		if r := w.ask(t, "7000", "1"); r.code != 0 || r.out == "" {
			return fmt.Sprintf("the guest does not answer: %v", r)
		}
		return ""
	})
}
