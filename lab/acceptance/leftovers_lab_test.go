//go:build lab

package acceptance

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var labNodes = []string{"client", "core", "witness", "west-edge", "west-host", "east-edge", "east-host"}

// inventory is what there is in a lab, one line for each thing: links, routes, rules, neighbours, processes,
// files and objects. Two of them are compared.
type inventory []string

// inventory looks everywhere. The exceptions are told in changing.
func (w *world) inventory(t *testing.T) inventory {
	t.Helper()
	var all inventory
	for _, node := range labNodes {
		const script = `ip -o link | cut -d: -f2 | sed 's/^/link /'; ip -o route show table all | sed 's/^/route /'; ip rule | sed 's/^/rule /'
			ip neigh show nud permanent | sed 's/^/neighbour /'`
		r := w.exec(t, node, "sh", "-c", script)
		if r.code != 0 {
			t.Fatalf("look into %s: %v", node, r)
		}
		for line := range strings.Lines(r.out) {
			if line = steady(line); line != "" {
				all = append(all, node+" "+line)
			}
		}
		all = append(all, w.processes(t, node)...)
	}
	all = append(all, w.files(t)...)
	all = append(all, w.objects(t)...)
	slices.Sort(all)
	return all
}

var counters = regexp.MustCompile(`(packets|bytes|metric|expires|hoplimit|handle) \d+(sec)?|@\S+`)

// steady takes from a line what changes by itself, and drops the kernel's own entries for IPv6.
func steady(line string) string {
	line = strings.Join(strings.Fields(counters.ReplaceAllString(line, "")), " ")
	if strings.Contains(line, "fe80:") || strings.Contains(line, "ff00::") {
		return ""
	}
	return line
}

// process is one of a node's.
type process struct {
	pid  int
	name string
}

// running lists the processes in a node's namespace. QEMU's names say whose they are.
func (w *world) running(t *testing.T, node string) []process {
	t.Helper()
	space, err := os.Stat("/run/netns/godwit-" + w.name + "-" + node)
	if err != nil {
		t.Fatal(err)
	}
	own := fmt.Sprintf("net:[%d]", space.Sys().(*syscall.Stat_t).Ino)
	found, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var all []process
	for _, link := range found {
		if at, err := os.Readlink(link); err != nil || at != own {
			continue
		}
		var p process
		line, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(link)), "cmdline"))
		if _, scanErr := fmt.Sscanf(link, "/proc/%d/", &p.pid); scanErr != nil || err != nil || len(line) == 0 {
			continue // it has ended
		}
		words := strings.Split(string(line), "\x00")
		p.name = strings.Join(words[:min(2, len(words))], " ")
		if strings.Contains(words[0], "qemu") {
			p.name = "qemu " + words[min(2, len(words)-1)]
		}
		all = append(all, p)
	}
	return all
}

// daemons are the ids of what the lab keeps running, by the names that its status gives them.
func (w *world) daemons(t *testing.T) map[string]int {
	t.Helper()
	pids := w.daemonsNow(t)
	for name, pid := range pids {
		if pid == 0 {
			t.Fatalf("%s does not run", name)
		}
	}
	return pids
}

// daemonsNow has 0 for one that is about to be started again.
func (w *world) daemonsNow(t *testing.T) map[string]int {
	t.Helper()
	var status struct {
		Processes []struct {
			Name string
			Pid  int
		}
	}
	if err := json.Unmarshal([]byte(w.must(t, "lab", "status", "--name", w.name, "-o", "json")), &status); err != nil {
		t.Fatal(err)
	}
	pids := make(map[string]int)
	for _, p := range status.Processes {
		pids[p.Name] = p.Pid
	}
	return pids
}

func (w *world) processes(t *testing.T, node string) []string {
	t.Helper()
	var all []string
	for _, p := range w.running(t, node) {
		if !strings.Contains(p.name, "godwit lab") { // ours: a client that asks
			all = append(all, node+" process "+p.name)
		}
	}
	return all
}

// machines are the ids of the service's virtual servers on a host.
func (w *world) machines(t *testing.T, node string) []int {
	t.Helper()
	var pids []int
	for _, p := range w.running(t, node) {
		if strings.HasPrefix(p.name, "qemu ") && strings.Contains(p.name, "guest="+service+",") {
			pids = append(pids, p.pid)
		}
	}
	return pids
}

// changing are files that come and go in the normal course: logs, journals, uploads kept for the next service, and what the
// controller's database does with its own.
var changing = regexp.MustCompile(`/logs/|/journal/|/blobs/|\.journal$|/controller/(etcd|store|member|data|uploads|blobs)/|\.snap$|\.wal$|\.tmp$`)

func (w *world) files(t *testing.T) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // it went while we looked
		}
		if !d.IsDir() && !changing.MatchString(path) {
			all = append(all, "file "+strings.TrimPrefix(path, w.dir+"/"))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// objects are the names that get lists; migrations stay on record and are left out.
func (w *world) objects(t *testing.T) []string {
	t.Helper()
	type object struct{ Kind, Name, Site, Role, Mode string }
	var all []string
	for _, kind := range []string{"sites", "hosts", "edges", "services", "volumes"} {
		for _, o := range get[listOf[object]](t, w, kind).Items {
			all = append(all, strings.Join([]string{"object", o.Kind, o.Name, o.Site, o.Role, o.Mode}, " "))
		}
	}
	return all
}

// since says what came and what went after an earlier look.
func (now inventory) since(before inventory) string {
	count := make(map[string]int)
	for _, line := range now {
		count[line]++
	}
	for _, line := range before {
		count[line]--
	}
	var changes []string
	for line, n := range count {
		switch {
		case n > 0:
			changes = append(changes, fmt.Sprintf("+%d %s", n, line))
		case n < 0:
			changes = append(changes, fmt.Sprintf("%d %s", n, line))
		}
	}
	slices.Sort(changes)
	return strings.Join(changes, "\n")
}

// nothingLeft wants everything to be as it was before; what is being cleared away gets a moment.
func (w *world) nothingLeft(t *testing.T, before inventory) {
	t.Helper()
	const moment = 20 * time.Second
	deadline := time.Now().Add(moment)
	for {
		changes := w.inventory(t).since(before)
		if changes == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("left behind, or gone:\n%s", changes)
			return
		}
	}
}
