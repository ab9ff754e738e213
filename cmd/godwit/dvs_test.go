package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost"
	"github.com/godwit-project/godwit/examples"
)

// dvsTest runs commands of one user, in this process.
type dvsTest struct {
	t      *testing.T
	socket string
}

// run returns what a command prints, on both streams, and its exit code.
func (d dvsTest) run(ctx context.Context, words ...string) (out, said string, code int) {
	var stdout, stderr bytes.Buffer
	a := &app{in: strings.NewReader("set colour green"), out: &stdout, err: &stderr, now: noon, env: func(name string) string {
		return map[string]string{"GODWIT_DVS": d.socket}[name]
	}}
	code = a.run(ctx, append([]string{"dvs"}, words...))
	return stdout.String(), stderr.String(), code
}

// want runs a command that must succeed and say so.
func (d dvsTest) want(text string, words ...string) string {
	d.t.Helper()
	out, said, code := d.run(d.t.Context(), words...)
	if code != exitOK || !strings.Contains(out+said, text) {
		d.t.Errorf("%v: exit %d, %s%s, want %q", words, code, out, said, text)
	}
	return out
}

// refused runs a command that must fail, with that code and text.
func (d dvsTest) refused(code int, text string, words ...string) {
	d.t.Helper()
	out, said, got := d.run(d.t.Context(), words...)
	if got != code || !strings.Contains(said, text) || out != "" {
		d.t.Errorf("%v: exit %d, %s%s, want %d and %q", words, got, out, said, code, text)
	}
}

// unbound waits until a call says that nobody has the name. One that is made before the node's callers have heard of its end does not know what became
// of it.
func (d dvsTest) unbound(container, name string) {
	d.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		_, said, code := d.run(d.t.Context(), "call", container, name, "--timeout", "20ms")
		if code == exitFailure && strings.Contains(said, "no process is bound") {
			return
		}
		if code != exitFailure || time.Now().After(deadline) {
			d.t.Fatalf("call %s %s: exit %d, %s", container, name, code, said)
		}
	}
}

// startDVSNode runs godwit dvs node until the test ends.
func startDVSNode(t *testing.T, socket string, words ...string) dvsTest {
	t.Helper()
	d := dvsTest{t, socket}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, said, code := d.run(ctx, append([]string{"node", "--log-level", "warn"}, words...)...); code != exitOK {
			t.Errorf("%v: exit %d: %s", words, code, said)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	d.started()
	return d
}

// started waits until the node answers.
func (d dvsTest) started() {
	d.t.Helper()
	client := dvshost.NewClient(d.socket)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if _, err := client.Stats(d.t.Context()); err == nil {
			return
		}
	}
	d.t.Fatal("the node does not start")
}

// freeAddresses finds loopback ports that nobody uses: at an address of their own, for one of 127.0.0.1 may be taken by whoever connects somewhere before
// it is listened at.
func freeAddresses(t *testing.T, n int) []string {
	t.Helper()
	var all []string
	host := fmt.Sprintf("127.%d.%d.%d:0", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	for range n {
		l, err := net.Listen("tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // only when all are found, so that they differ
		all = append(all, l.Addr().String())
	}
	return all
}

// A user's way through the commands: two nodes, a process, a move, a drain.
func TestDVSCommands(t *testing.T) {
	directory := t.TempDir()
	address := freeAddresses(t, 2)
	cache := filepath.Join(directory, "cache")
	a := startDVSNode(t, filepath.Join(directory, "a"), "--name", "a", "--listen", address[0], "--peer", "b="+address[1], "--cache", cache, "--balance",
		"--state", filepath.Join(directory, "state"))
	b := startDVSNode(t, filepath.Join(directory, "b"), "--name", "b", "--listen", address[1], "--peer", "a="+address[0], "--cache", cache, "--compress", "always", "--no-batches")
	if _, err := examples.KV(t.Context(), directory); err != nil {
		t.Fatal(err)
	}
	module := filepath.Join(directory, "kv.wasm")

	a.want("shop/kv is running", "run", module, "--container", "shop", "--name", "kv", "--memory", "64MiB")
	a.want("ok", "call", "shop", "kv", "set colour blue")
	b.want("ok blue", "call", "shop", "kv", "get colour")
	b.want("ok", "call", "shop", "kv", "-")
	a.refused(exitFailure, "no process is bound to this name", "call", "shop", "nobody", "--timeout", "50ms")
	a.refused(exitFailure, "no process is bound to this name", "call", "shop", "nobody", "--timeout", "0")
	a.refused(exitFailure, "no process is bound to this name", "call", "stall", "kv", "get colour", "--timeout", "0")
	a.refused(exitUsage, "invalid argument", "call", "shop", "kv", "--timeout", "soon")
	a.refused(exitFailure, "no such node is known here", "drain", "--to", "c")
	a.want("running", "ps")
	b.want("active", "endpoints", "-o", "table")
	a.want("up", "links")
	a.want("packets from nodes", "stats")
	a.want("above 80 %, until 60 %: now false", "stats")
	a.want("PAGES BEFORE", "migrate", "shop", "kv", "--to", "b")
	a.want("ok green", "call", "shop", "kv", "get colour")
	var moved dvshost.DrainInfo
	if out := b.want("heldMs", "drain", "-o", "json"); json.Unmarshal([]byte(out), &moved) != nil || len(moved.Moved) != 1 {
		t.Errorf("drained: %s", out)
	}
	var list items[dvshost.ProcessInfo]
	if out := a.want("List", "ps", "-o", "json"); json.Unmarshal([]byte(out), &list) != nil || len(list.Items) != 1 || list.Items[0].Name != "kv" {
		t.Errorf("processes: %s", out)
	}
	a.want("TROUBLE", "moves")
	a.refused(exitFailure, "nothing of that name moves from this node", "abort", "shop", "kv", "--give-up")
	a.want("", "stop", "shop", "kv")
	a.unbound("shop", "kv")
	a.refused(exitFailure, "no process of that name", "stop", "shop", "kv")
	a.refused(exitFailure, "no process of that name", "migrate", "shop", "kv", "--to", "b")

	text := filepath.Join(directory, "text")
	if err := os.WriteFile(text, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	a.refused(exitFailure, "no WebAssembly module", "run", text, "--container", "shop", "--name", "x")
}

// What is mistyped or not possible is refused, with what to do about it.
func TestDVSRefusals(t *testing.T) {
	d := dvsTest{t, filepath.Join(t.TempDir(), "none")}
	d.refused(exitFailure, "godwit: no node answers at ", "ps")
	d.refused(exitUsage, "--name NAME", "node")
	d.refused(exitUsage, "want NAME=HOST:PORT", "node", "--name", "a", "--listen", "127.0.0.1:0", "--peer", "b")
	d.refused(exitUsage, "--listen HOST:PORT", "node", "--name", "a", "--peer", "b=127.0.0.1:1")
	d.refused(exitFailure, "loopback addresses only", "node", "--name", "a", "--listen", "192.0.2.1:1")
	d.refused(exitFailure, "belong together", "node", "--name", "a", "--cert", "x")
	d.refused(exitUsage, "want auto, always or never", "node", "--name", "a", "--compress", "sometimes")
	d.refused(exitUsage, "low water mark", "node", "--name", "a", "--balance", "--low-water", "0.9")
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	write := func(text string) {
		if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d.refused(exitFailure, "no such file", "node", "--name", "a", "--policy", policy)
	write("containers:\n  - name: shop\n    allow: [{programs: [nobody]}]\n")
	for _, words := range [][]string{{"node", "--name", "a", "--policy", policy}, {"policy", "check", policy}} {
		d.refused(exitFailure, policy+":3: containers[0].allow[0].programs[0]: \"nobody\" is no program's user: want user:NAME", words...)
	}
	write("containers:\n  - name: shop\n    allow: [{programs: [any]}]\n")
	d.want("is a policy", "policy", "check", policy)
	d.refused(exitUsage, "want check", "policy")
	d.refused(exitFailure, "this machine has none of that name", "node", "--name", "a", "--group", "no such group")
	d.refused(exitUsage, "--container CONTAINER", "run", "x.wasm")
	d.refused(exitUsage, "want 64MiB", "run", "x.wasm", "--container", "c", "--name", "n", "--memory", "much")
	d.refused(exitUsage, "--to NODE", "migrate", "shop", "kv")
	d.refused(exitUsage, "want table, json, yaml", "ps", "-o", "xml")
	d.refused(exitUsage, "want abort, call", "")
}
