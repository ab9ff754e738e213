package dvshost_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost"
	"github.com/godwit-project/godwit/dvs"
)

// survivor is the argument that makes this test a native program that would wait for its node to come back, and bind its name again.
const survivor = "survivor"

// runSurvivor tells whoever asks its process id.
func runSurvivor() {
	ctx := context.Background()
	session, err := dvs.Connect(ctx, "", dvs.Options{Reconnect: time.Minute})
	if err != nil {
		panic(err)
	}
	for e, err := session.Bind(ctx, "", dvs.BindOptions{}); ; {
		var m dvs.Message
		if err == nil {
			m, err = e.ReceiveRequest(ctx)
		}
		if err != nil {
			panic(err)
		}
		_ = e.Reply(m, fmt.Append(nil, os.Getpid()))
	}
}

// lives tells whether a process runs; one that nobody has buried does not.
func lives(pid string) bool {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	_, rest, _ := strings.Cut(string(b), ") ")
	return err == nil && !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// A node that is killed takes its native programs along, whatever they would do by themselves: one that lived on would be a second copy when the node,
// which knows of none, is told to run the program again.
func TestANativeProgramDoesNotOutliveItsKilledNode(t *testing.T) {
	a, _ := twoProcesses(t)
	spec := dvshost.NativeSpec{Container: "shop", Name: "p", Path: os.Args[0], Arguments: []string{survivor}}
	var pids []string
	for range 2 {
		if err := a.RunNative(patient(t), spec); err != nil {
			t.Fatal(err)
		}
		pid := a.ask(t, "shop", "p", "")
		if pids = append(pids, pid); !lives(pid) {
			t.Errorf("process %s, which answers, does not run", pid)
		}
		a.kill()
		eventually(t, "the program to end", func() string {
			if lives(pid) {
				return pid + " lives"
			}
			return ""
		})
		a.begin(t)
		if all, err := a.List(patient(t)); err != nil || len(all) != 0 {
			t.Errorf("the node has %v, %v", all, err)
		}
	}
	if pids[0] == pids[1] {
		t.Errorf("both were process %s", pids[0])
	}
}
