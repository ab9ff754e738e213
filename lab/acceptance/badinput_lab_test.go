//go:build lab

package acceptance

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// refused wants a failure that names the cause, and says what to do where a pattern for that is given. Patterns are regular
// expressions over what was said on stderr.
func refused(t *testing.T, r result, patterns ...string) {
	t.Helper()
	if r.code == 0 {
		t.Errorf("it was accepted: %v", r)
	}
	for _, pattern := range patterns {
		if !regexp.MustCompile("(?i)" + pattern).MatchString(r.err) {
			t.Errorf("the error does not say %q: %v", pattern, r)
		}
	}
	if strings.Contains(r.err, "panic:") || strings.Contains(r.err, "goroutine ") {
		t.Errorf("it crashed: %v", r)
	}
	t.Logf("exit code %d: %s", r.code, strings.TrimSpace(r.err))
}

func TestBadInputIsRefusedWithAReasonAndLeavesNothing(t *testing.T) {
	w := up(t, "acc-bad", "--bandwidth", "1gbit")
	w.start(t)
	south := addSouth(t, w)
	stable := w.inventory(t)

	t.Run("a manifest is checked strictly and told line and column", func(t *testing.T) { badManifests(t, w) })
	t.Run("a site, a service and a migration have to exist", func(t *testing.T) { unknownNames(t, w) })
	t.Run("too much memory or disk is refused with figures", func(t *testing.T) { tooLarge(t, w) })
	t.Run("an address belongs to one service", func(t *testing.T) {
		other := shop
		other.name, other.volume = "rival", "4MiB"
		refused(t, w.godwit(t, "apply", "-f", manifest(t, other.manifest(w))), address, "shop", "hint:.*(another address|delete)")
	})
	t.Run("a service that runs is not changed under its user", func(t *testing.T) {
		other := shop
		other.memory = "128MiB"
		refused(t, w.godwit(t, "apply", "-f", manifest(t, other.manifest(w))), "shop", "different", "hint:.*delete")
	})
	t.Run("the site where it is is no destination", func(t *testing.T) {
		refused(t, w.godwit(t, "migrate", service, "--to", "west"), "at site west already")
	})
	t.Run("a second migration is refused while one is held", func(t *testing.T) { secondMigration(t, w) })
	t.Run("an agent that is down is named", func(t *testing.T) { agentDown(t, w) })
	t.Run("a certificate of another CA is refused", func(t *testing.T) { anotherCA(t, w) })
	t.Run("a second lab of the same name is refused", func(t *testing.T) {
		refused(t, w.godwit(t, "lab", "up", "--name", w.name), "up already", "godwit lab down")
	})
	t.Run("a lab and an agent need root, and say so", func(t *testing.T) { notRoot(t, w) })
	w.nothingLeft(t, stable)

	t.Run("a destination without QEMU is refused", func(t *testing.T) {
		south.restart(t, "true", func(h hostView) bool { return h.Problem != "" }, "PATH=/nonexistent")
		refused(t, w.godwit(t, "migrate", service, "--to", "south"), "south-host", "qemu", "install")
		other := shop
		other.name, other.site, other.address, other.volume = "rival", "south", "203.0.113.11", "4MiB"
		refused(t, w.godwit(t, "apply", "-f", manifest(t, other.manifest(w))), "south-host", "qemu", "install")
	})
	t.Run("a destination with another machine type is refused", func(t *testing.T) {
		south.restart(t, "true", func(h hostView) bool { return h.Problem == "" }, otherQEMU(t, "pc-q35-99.1", cpuOf(t, w))...)
		refused(t, w.godwit(t, "migrate", service, "--to", "south"), "south-host", "machine type pc-q35-", "pc-q35-99.1", "same QEMU")
	})
	t.Run("a destination with another CPU is refused", func(t *testing.T) {
		south.restart(t, "true", func(h hostView) bool { return h.Problem == "" }, otherQEMU(t, machineOf(t, w), "kvm64-v1")...)
		refused(t, w.godwit(t, "migrate", service, "--to", "south"), "south-host", "CPU model", "kvm64-v1")
	})
	t.Run("a destination with too little memory is refused with figures", func(t *testing.T) {
		info := filepath.Join(t.TempDir(), "meminfo")
		if err := os.WriteFile(info, []byte("MemTotal: 524288 kB\nMemFree: 102400 kB\nMemAvailable: 102400 kB\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		south.restart(t, "mount --bind "+info+" /proc/meminfo", func(h hostView) bool { return h.Problem == "" && h.MemoryFree == 100<<20 })
		refused(t, w.godwit(t, "migrate", service, "--to", "south"), "south-host", "memory", `\b100 MiB`, "256 MiB")
	})
	t.Run("a destination with too little disk is refused with figures", func(t *testing.T) {
		small := "mount -t tmpfs -o size=16m small " + filepath.Join(south.dir, "host", "volumes")
		south.restart(t, small, func(h hostView) bool { return h.Problem == "" && h.DiskFree <= 16<<20 })
		refused(t, w.godwit(t, "migrate", service, "--to", "south"), "south-host", "disk", `\b16 MiB`, "64 MiB")
	})
	south.end(south.host)
	w.nothingLeft(t, stable)
	w.verify(t, 0)
}

func badManifests(t *testing.T, w *world) {
	good := shop
	good.name, good.address = "rival", "203.0.113.11"
	text := good.manifest(w)
	for name, bad := range map[string]struct {
		old, new string
		want     []string
	}{
		"an unknown field":           {"  memory: 256MiB", "  memroy: 256MiB", []string{`service.yaml:5:3: server.memroy: unknown field`, "memory"}},
		"an unknown field on top":    {"site: west", "site: west\nflavour: sweet", []string{`service.yaml:4:1: flavour: unknown field`}},
		"a word for a number":        {"  memory: 256MiB", "  memory: 256MiB\n  cpus: two", []string{`service.yaml:6:9: server.cpus`, "whole number"}},
		"a number for a size":        {"  memory: 256MiB", "  memory: lots", []string{`service.yaml:5:11: server.memory`}},
		"a list for a mapping":       {"server:", "server: []\nx:", []string{`service.yaml:4:9: server`, "mapping"}},
		"a mapping for a list":       {"addresses: [203.0.113.11]", "addresses: {a: b}", []string{`service.yaml:11:12: addresses`, "list"}},
		"no address":                 {"203.0.113.11", "203.0.113.999", []string{`service.yaml:11:13: addresses\[0\]`, "no address"}},
		"a prefix for an address":    {"203.0.113.11", "203.0.113.0/24", []string{`service.yaml:11:13: addresses\[0\]`, "prefix"}},
		"another kind":               {"kind: Service", "kind: Pod", []string{`service.yaml:1:7: kind`, "Service"}},
		"a name that is none":        {"name: rival", "name: Rival!", []string{`service.yaml:2:7: name`}},
		"no YAML":                    {"server:", "server: [", []string{`service.yaml:\d+:\d+`, "YAML"}},
		"a missing field":            {"site: west\n", "", []string{"site: is missing"}},
		"a kernel that is not there": {"kernel: ", "kernel: /nowhere", []string{"/nowhere", "no such file"}},
		"an unknown site":            {"site: west", "site: north", []string{`site "north" is not known`, "east, .*west", "hint:"}},
	} {
		t.Run(name, func(t *testing.T) {
			changed := strings.Replace(text, bad.old, bad.new, 1)
			if changed == text {
				t.Fatal("the manifest has no such line")
			}
			refused(t, w.godwit(t, "apply", "-f", manifest(t, changed)), bad.want...)
		})
	}
	refused(t, w.godwit(t, "apply", "-f", "/nowhere/service.yaml"), "/nowhere/service.yaml", "no such file")
	refused(t, w.godwit(t, "get", "service", "rival"), `no service "rival"`)
}

func unknownNames(t *testing.T, w *world) {
	refused(t, w.godwit(t, "migrate", "shoe", "--to", "east"), `no service "shoe"`, "hint: godwit get services")
	refused(t, w.godwit(t, "migrate", service, "--to", "north"), `"north"`, "known: east, .*west")
	refused(t, w.godwit(t, "migrate", service), "--to SITE")
	refused(t, w.godwit(t, "migrate", service, "--to", "east", "--at", "yesterday"), "--at", "RFC 3339")
	refused(t, w.godwit(t, "migrate", service, "--to", "east", "--at", "2001-01-01T00:00:00Z"), "past")
	refused(t, w.godwit(t, "migration", "continue", "shop-999"), `no migration "shop-999"`, "hint:")
	refused(t, w.godwit(t, "migration", "abort", "shop-999"), `no migration "shop-999"`, "hint:")
	refused(t, w.godwit(t, "delete", "service", "shoe"), `no service "shoe"`, "hint:")
	refused(t, w.godwit(t, "get", "planes"), `no kind "planes"`, "services")
	refused(t, w.godwit(t, "lab", "exec", "--name", w.name, "nowhere", "--", "true"), "no such node", "west-edge")
	refused(t, w.godwit(t, "lab", "link", "--name", w.name, "cut", "north"), "north", "west, east")
	refused(t, w.godwit(t, "get", "hosts", "--server", "unix:///nowhere/controller.sock"), "/nowhere/controller.sock", "hint:")
	if r := w.godwit(t, "lab", "exec", "--name", w.name, "client", "--", "sh", "-c", "exit 7"); r.code != 7 {
		t.Errorf("lab exec NODE -- COMMAND, as its help has it: %v", r)
	}
}

func tooLarge(t *testing.T, w *world) {
	other := shop
	other.name, other.address = "rival", "203.0.113.11"
	other.memory = "1TiB"
	refused(t, w.godwit(t, "apply", "-f", manifest(t, other.manifest(w))), "memory", `\d+ MiB free`, "1048576 MiB|1 TiB")
	other.memory, other.volume = "256MiB", "100TiB"
	refused(t, w.godwit(t, "apply", "-f", manifest(t, other.manifest(w))), "disk", `\d+ MiB free`, "104857600 MiB|100 TiB")
}

func secondMigration(t *testing.T, w *world) {
	before := w.inventory(t)
	w.must(t, "migrate", service, "--to", "east", "--prepare")
	name := w.migration(t, "").Name
	refused(t, w.godwit(t, "migrate", service, "--to", "east"), "migrated already", name, "hint:.*abort "+name)
	refused(t, w.godwit(t, "delete", "service", service), "being migrated", "hint:.*abort")
	w.must(t, "migration", "abort", name, "--reason", "it was a test")
	if m := w.migration(t, name); m.Phase != "aborted" || !strings.Contains(m.Reason, "it was a test") {
		t.Errorf("after the abort: %+v", m)
	}
	refused(t, w.godwit(t, "migration", "continue", name), "is aborted")
	w.nothingLeft(t, before)
}

// agentDown stops an agent, which a supervisor does not notice and a controller does.
func agentDown(t *testing.T, w *world) {
	for _, node := range []string{"east-host", "east-edge", "west-host"} {
		t.Run(node, func(t *testing.T) {
			pid := w.daemons(t)["agent "+node]
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			resume := func() { _ = syscall.Kill(pid, syscall.SIGCONT) }
			defer resume()
			w.awaitReady(t, node, false)
			refused(t, w.godwit(t, "migrate", service, "--to", "east"), node+" is down", "last seen", "start it")
			if node == "west-host" {
				other := shop
				other.name, other.address, other.volume = "rival", "203.0.113.11", "4MiB"
				refused(t, w.godwit(t, "apply", "-f", manifest(t, other.manifest(w))), node+" is down", "last seen")
			}
			resume()
			w.awaitReady(t, node, true)
		})
	}
}

func (w *world) awaitReady(t *testing.T, node string, want bool) {
	t.Helper()
	kind := strings.Split(node, "-")[1]
	eventually(t, 30*time.Second, func() string {
		if h := get[hostView](t, w, kind, node); h.Ready != want {
			return fmt.Sprintf("%s is ready: %t", node, h.Ready)
		}
		return ""
	})
}

func anotherCA(t *testing.T, w *world) {
	dir := filepath.Join(t.TempDir(), "other")
	w.must(t, "init", "--data", dir, "--name", "other")
	const server = "https://192.0.2.14:7443"
	stranger := filepath.Join(dir, "operator")
	refused(t, w.exec(t, "client", w.binary, "get", "services", "--server", server, "--identity", stranger), "from another CA", "join again")
	refused(t, w.exec(t, "client", w.binary, "get", "services", "--server", server), "identity", "hint:")
	refused(t, w.exec(t, "client", w.binary, "agent", "--data", stranger, "--address", "192.0.2.10:7444"), "join")
	token := strings.TrimSpace(w.must(t, "token", "create", "--role", "viewer", "--name", "vera"))
	vera := filepath.Join(t.TempDir(), "vera")
	join := func(data string) result {
		return w.exec(t, "client", w.binary, "join", "--token", token, "--controller", "192.0.2.14:7443", "--data", data)
	}
	if r := join(vera); r.code != 0 {
		t.Fatalf("join: %v", r)
	}
	refused(t, join(filepath.Join(t.TempDir(), "again")), "token was used already", "make a new one")
	if r := w.exec(t, "client", w.binary, "get", "services", "--server", server, "--identity", vera); r.code != 0 {
		t.Errorf("a viewer may look: %v", r)
	}
	refused(t, w.exec(t, "client", w.binary, "migrate", service, "--to", "east", "--server", server, "--identity", vera), "viewer", "operator")
}

func notRoot(t *testing.T, w *world) {
	dir, err := os.MkdirTemp("", "godwit-acceptance-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	binary := filepath.Join(dir, "godwit") // the built one may lie where nobody else may go
	if out, err := exec.Command("cp", w.binary, binary).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	asNobody := func(args ...string) result {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, binary, args...)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		return finish(cmd)
	}
	refused(t, asNobody("lab", "up", "--name", "acc-nobody"), "root", "sudo")
	refused(t, asNobody("lab", "down", "--name", w.name), "root")
	refused(t, asNobody("agent", "--data", "/nonexistent", "--address", "192.0.2.10:7444"), "root")
	refused(t, asNobody("get", "services", "--server", "unix://"+w.dir+"/controller.sock"), "may not open", "hint:")
	if left := (&world{name: "acc-nobody", dir: "/run/godwit/lab-acc-nobody"}).traces(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// serverView is what the service was pinned to when it was started.
type serverView struct {
	Server struct {
		MachineType string `json:"machineType"`
		CPUModel    string `json:"cpuModel"`
	}
}

func machineOf(t *testing.T, w *world) string {
	return get[serverView](t, w, "service", service).Server.MachineType
}

func cpuOf(t *testing.T, w *world) string {
	return get[serverView](t, w, "service", service).Server.CPUModel
}
