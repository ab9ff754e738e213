package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost"
	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/examples"
	"github.com/godwit-project/godwit/server/native"
)

// linked waits until nodes hear each other.
func linked(t *testing.T, nodes ...dvsTest) {
	t.Helper()
	for _, d := range nodes {
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			links, err := dvshost.NewClient(d.socket).Links(t.Context())
			if err == nil && len(links) > 0 && links[0].State == "up" {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the nodes do not find each other")
			}
		}
	}
}

func buildTally(t *testing.T) string {
	t.Helper()
	file, err := examples.Tally(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// A program with functions of its own for that is started at the other node and goes on there. A drain moves it too, names what cannot move, and
// fails because of that.
func TestDVSNative(t *testing.T) {
	directory := t.TempDir()
	address := freeAddresses(t, 3)
	a := startDVSNode(t, filepath.Join(directory, "a"), "--name", "a", "--listen", address[0], "--peer", "b="+address[1], "--native")
	b := startDVSNode(t, filepath.Join(directory, "b"), "--name", "b", "--listen", address[1], "--peer", "a="+address[0], "--peer", "c="+address[2], "--native")
	c := startDVSNode(t, filepath.Join(directory, "c"), "--name", "c", "--listen", address[2], "--peer", "b="+address[1])
	linked(t, a, b)
	a.want("shop/tally is running", "run", "--native", buildTally(t), "--container", "shop", "--name", "tally")
	a.want("5", "call", "shop", "tally", "add 5")
	a.want("native", "ps")
	a.refused(exitFailure, "another process is bound", "run", "--native", buildTally(t), "--container", "shop", "--name", "tally")
	a.want("tally", "migrate", "shop", "tally", "--to", "b")
	b.want("7", "call", "shop", "tally", "add 2")
	if out := a.want("", "ps", "-o", "json"); strings.Contains(out, "tally") {
		t.Errorf("at the source there is still %s", out)
	}
	linked(t, c)
	b.refused(exitFailure, "takes no native programs in", "migrate", "shop", "tally", "--to", "c")

	s, err := dvs.Connect(t.Context(), b.socket, dvs.Options{Container: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if _, err := s.Bind(t.Context(), "fixed", dvs.BindOptions{}); err != nil {
		t.Fatal(err)
	}
	out, said, code := b.run(t.Context(), "drain", "--to", "a", "-o", "json")
	var done dvshost.DrainInfo
	if err := json.Unmarshal([]byte(out), &done); err != nil || len(done.Moved) != 1 || done.Moved[0].Name != "tally" || code != exitFailure ||
		!strings.Contains(said, "move shop/fixed to a: ") || strings.Contains(said, "tally") {
		t.Errorf("drain: %d, %s, %s", code, out, said)
	}
	b.want("7", "call", "shop", "tally", "get")
	a.want("", "stop", "shop", "tally")
	a.unbound("shop", "tally")
}

// What cannot be run as a native program is refused, with what to do about it.
func TestDVSNativeRefusals(t *testing.T) {
	d := startDVSNode(t, filepath.Join(t.TempDir(), "a"), "--name", "a")
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho it is broken\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	where := []string{"--container", "shop", "--name", "x"}
	d.refused(exitUsage, "want the PROGRAM", append([]string{"run", "--native"}, where...)...)
	d.refused(exitUsage, "want --native too", append([]string{"run", "--criu", program}, where...)...)
	d.refused(exitUsage, "--memory is for WebAssembly", append([]string{"run", "--native", program, "--memory", "1MiB"}, where...)...)
	d.refused(exitFailure, "no such file", append([]string{"run", "--native", program + "s"}, where...)...)
	d.refused(exitFailure, "exit status 3 (it wrote: \"it is broken\")", append([]string{"run", "--native", program}, where...)...)
	t.Setenv(native.EnvCRIU, filepath.Join(t.TempDir(), "none"))
	want := native.ErrMissing.Error()
	if os.Geteuid() != 0 {
		want = native.ErrRoot.Error()
	}
	d.refused(exitFailure, want, append([]string{"run", "--native", "--criu", program}, where...)...)
}
