//go:build lab

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost"
	"github.com/godwit-project/godwit/api"
	"github.com/godwit-project/godwit/examples"
)

// dvsHosts are machines, each a network namespace, with a controller on the first.
type dvsHosts struct {
	t    *testing.T
	dir  string
	ends map[string]func() // of processes that run, by name
}

// newDVSHosts makes two machines, 10.77.0.1 and 10.77.0.2, joined by a cable.
func newDVSHosts(t *testing.T) *dvsHosts {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("an agent needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("no ip: apt-get install iproute2")
	}
	h := &dvsHosts{t: t, dir: t.TempDir(), ends: map[string]func(){}}
	for i, name := range []string{"a", "b"} {
		h.ip("netns", "add", h.space(name))
		t.Cleanup(func() { h.ip("netns", "delete", h.space(name)) })
		if i > 0 {
			h.ip("link", "add", "cable", "netns", h.space("a"), "type", "veth", "peer", "name", "cable", "netns", h.space("b"))
		}
	}
	for i, name := range []string{"a", "b"} {
		h.ip("-n", h.space(name), "address", "add", fmt.Sprintf("10.77.0.%d/24", i+1), "dev", "cable")
		h.ip("-n", h.space(name), "link", "set", "cable", "up")
		h.ip("-n", h.space(name), "link", "set", "lo", "up")
	}
	return h
}

func (h *dvsHosts) space(name string) string { return fmt.Sprintf("dvs-%d-%s", os.Getpid(), name) }

func (h *dvsHosts) ip(words ...string) {
	h.t.Helper()
	if out, err := exec.Command("ip", words...).CombinedOutput(); err != nil {
		h.t.Fatalf("ip %v: %v: %s", words, err, out)
	}
}

// command is godwit on a machine; in its words {} is the test's directory.
func (h *dvsHosts) command(ctx context.Context, at string, words ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	all := []string{"netns", "exec", h.space(at), self}
	for _, w := range words {
		all = append(all, strings.ReplaceAll(w, "{}", h.dir))
	}
	return exec.CommandContext(ctx, "ip", all...)
}

// run has a command of a user succeed, and returns what it prints.
func (h *dvsHosts) run(at string, words ...string) string {
	h.t.Helper()
	var out, said bytes.Buffer
	cmd := h.command(h.t.Context(), at, words...)
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		h.t.Fatalf("%v: %v: %s", words, err, &said)
	}
	return out.String()
}

// serve runs a process until the test ends, or ends[name].
func (h *dvsHosts) serve(name, at string, words ...string) {
	h.t.Helper()
	cmd := h.command(context.Background(), at, words...)
	log, err := os.OpenFile(filepath.Join(h.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	ended := false
	h.ends[name] = func() {
		if ended {
			return
		}
		ended = true
		_ = cmd.Process.Signal(os.Interrupt) // ip has become godwit
		if err := cmd.Wait(); err != nil {
			h.t.Errorf("%s: %v", name, err)
		}
	}
	h.t.Cleanup(func() {
		h.ends[name]()
		if h.t.Failed() {
			said, _ := os.ReadFile(log.Name())
			h.t.Logf("%s:\n%s", name, said)
		}
	})
}

func (h *dvsHosts) controller() {
	h.serve("controller", "a", "controller", "--data", "{}/controller", "--listen", "10.77.0.1:7443", "--socket", "{}/controller.sock")
	h.until("the controller answers", func() bool {
		return h.command(h.t.Context(), "a", "get", "hosts", "--server", "unix://{}/controller.sock").Run() == nil
	})
}

// agent has a machine join, the first time, and runs its agent; more is for its node.
func (h *dvsHosts) agent(name string, more ...string) dvsTest {
	h.t.Helper()
	data := filepath.Join(h.dir, name)
	if _, err := os.Stat(data); err != nil {
		token := strings.Fields(h.run("a", "token", "create", "--server", "unix://{}/controller.sock", "--role", "host", "--site", "west", "--name", name))
		h.run(name, "join", "--token", token[len(token)-1], "--controller", "10.77.0.1:7443", "--data", data)
	}
	address := map[string]string{"a": "10.77.0.1:7444", "b": "10.77.0.2:7444"}[name]
	h.serve("agent "+name, name, append([]string{"agent", "--data", data, "--address", address, "--dvs", "--dvs-socket", data + ".sock"}, more...)...)
	return dvsTest{h.t, data + ".sock"}
}

func (h *dvsHosts) until(what string, reached func() bool) {
	h.t.Helper()
	for end := time.Now().Add(time.Minute); !reached(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("not reached: %s", what)
		}
	}
}

// linkedAt waits until a node reaches the other one at that address.
func (h *dvsHosts) linkedAt(d dvsTest, address string) {
	h.t.Helper()
	h.until("a link to "+address, func() bool {
		links, err := dvshost.NewClient(d.socket).Links(h.t.Context())
		return err == nil && len(links) == 1 && links[0].Address == address && links[0].State == "up"
	})
}

// Two agents run nodes that nobody has told of each other: a process that one runs is called from the other, moves there, and is called again. An agent
// that begins again at another address is found, also while the controller is away.
func TestAgentsRunNodesThatFindEachOther(t *testing.T) {
	h := newDVSHosts(t)
	h.run("a", "init", "--data", "{}/controller", "--name", "test")
	h.controller()
	a, b := h.agent("a"), h.agent("b")
	h.linkedAt(a, "10.77.0.2:7445")
	h.linkedAt(b, "10.77.0.1:7445")
	var hosts struct{ Items []api.HostView }
	if err := json.Unmarshal([]byte(h.run("a", "get", "hosts", "--server", "unix://{}/controller.sock", "-o", "json")), &hosts); err != nil {
		t.Fatal(err)
	}
	if len(hosts.Items) != 2 || hosts.Items[0].DVS != "10.77.0.1:7445" || hosts.Items[1].DVS != "10.77.0.2:7445" {
		t.Errorf("get hosts: %+v", hosts)
	}

	kv := filepath.Join(h.dir, "kv.wasm")
	if _, err := examples.KV(t.Context(), h.dir); err != nil {
		t.Fatal(err)
	}
	a.want("shop/kv is running", "run", kv, "--container", "shop", "--name", "kv")
	b.want("ok", "call", "shop", "kv", "set colour blue")
	a.want("kv", "migrate", "shop", "kv", "--to", "b")
	a.want("blue", "call", "shop", "kv", "get colour")
	b.want("blue", "call", "shop", "kv", "get colour")
	b.want("kv", "drain")
	b.want("blue", "call", "shop", "kv", "get colour")

	h.ends["agent b"]()
	b = h.agent("b", "--dvs-listen", "10.77.0.2:7500")
	h.linkedAt(a, "10.77.0.2:7500")
	b.want("blue", "call", "shop", "kv", "get colour")

	h.ends["controller"]()
	h.ends["agent a"]()
	a = h.agent("a")
	h.linkedAt(a, "10.77.0.2:7500")
	a.want("shop/kv is running", "run", kv, "--container", "shop", "--name", "kv")
	b.want("none", "call", "shop", "kv", "get colour")
}
