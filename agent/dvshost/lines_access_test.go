package dvshost_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/godwit-project/godwit/agent/dvshost"
	"github.com/godwit-project/godwit/dvs"
)

// ofShop is a policy for the user of this test, who is the user of all programs here; container others is somebody else's.
var ofShop = fmt.Sprintf(`containers:
  - name: others
    allow: [{programs: ["user:%d"]}]
  - name: shop
    allow:
      - {programs: ["user:%[2]d"], endpoints: [s-*, c-*], may: [bind]}
      - {programs: ["user:%[2]d"], endpoints: [s-send], may: [send]}
      - {programs: ["user:%[2]d"], endpoints: [s-sendrec], may: [sendrec]}
      - {programs: ["user:%[2]d"], endpoints: [s-notify], may: [notify]}
      - {programs: ["user:%[2]d"], endpoints: [s-read, c-*], may: [copy-read]}
      - {programs: ["user:%[2]d"], endpoints: [s-write, c-*], may: [copy-write]}
`, os.Getuid()+1, os.Getuid())

// Line 10: what a policy does not allow is refused, beside the server and at another node, and what it allows is done.
func TestLine10PermissionsProcesses(t *testing.T) {
	a, b := twoProcesses(t, func(o *processOptions) { o.Policy = ofShop })
	server := startPuppet(t, a, "shop")
	received := map[string]<-chan told{}
	for _, name := range []string{"s-send", "s-sendrec", "s-notify", "s-read", "s-write"} {
		server.bind(name).must(order{Op: "register", As: name, Data: name, Size: 100})
		if name != "s-sendrec" {
			received[name] = server.begin(order{Op: "receive", As: name})
		}
	}
	server.echo("s-sendrec", "to ")
	for _, n := range []*killable{a, b} {
		client, own := startPuppet(t, n, "shop"), "c-"+n.name
		client.bind(own).must(order{Op: "register", As: own, Data: own, Size: 100})
		client.fails(order{Op: "bind", As: "mine"}, dvs.ErrDenied)
		mine := dvs.Place{Endpoint: own, Buffer: own}
		for name := range received {
			if name != "s-send" {
				client.fails(order{Op: "send", As: own, To: name}, dvs.ErrDenied)
			}
			if name != "s-notify" {
				client.must(order{Op: "notify", As: own, To: name}) // it is not told, and nor is the server
			}
			client.fails(order{Op: "sendrec", As: own, To: name}, dvs.ErrDenied)
			there := dvs.Place{Endpoint: name, Buffer: name}
			for word, o := range map[string]order{
				"s-read":  {Op: "copy", As: own, Dst: mine, Src: there, Size: 100},
				"s-write": {Op: "copy", As: own, Dst: there, Src: mine, Size: 100},
			} {
				if word == name {
					client.must(o)
				} else {
					client.fails(o, dvs.ErrDenied)
				}
			}
		}
		if got := client.must(order{Op: "sendrec", As: own, To: "s-sendrec", Data: "x"}); got.Data != "to x" {
			t.Errorf("the answer is %q", got.Data)
		}
		client.fails(order{Op: "send", As: own, To: "s-sendrec"}, dvs.ErrDenied)
		client.must(order{Op: "send", As: own, To: "s-send", Data: "y"})
		if got := server.fine(received["s-send"], order{}); got.Kind != "send" || got.Data != "y" {
			t.Errorf("s-send received %+v", got)
		}
		client.must(order{Op: "notify", As: own, To: "s-notify"})
		if got := server.fine(received["s-notify"], order{}); got.Kind != "notify" || got.From != own {
			t.Errorf("s-notify received %+v", got)
		}
		for _, name := range []string{"s-send", "s-notify"} {
			received[name] = server.begin(order{Op: "receive", As: name})
		}
		for container, why := range map[string]string{"others": "named by no rule", "elsewhere": "has no container"} {
			enter := order{Op: "connect", At: n.socket, To: container}
			stranger := newPuppet(t)
			stranger.fails(enter, dvs.ErrContainer)
			if got := stranger.do(enter); !strings.Contains(got.Err, why) || !strings.Contains(got.Err, "added to the policy") {
				t.Errorf("%s: it was told %q", container, got.Err)
			}
		}
	}
	for _, name := range []string{"s-send", "s-notify", "s-read", "s-write"} {
		select {
		case got := <-received[name]:
			t.Errorf("%s received %+v", name, got)
		default:
		}
	}
	a.run(t, "others", "counter", module(t, built.counter)) // whoever runs the node may
	if got := b.ask(t, "others", "counter", "7"); got != "7" {
		t.Errorf("the counter is %s", got)
	}
}

// Lines 2 and 10: what is in a container that is not shared with a node is unknown there, and moves there or from there are refused.
func TestLine02And10ContainersThatAreNotSharedProcesses(t *testing.T) {
	const open = "\n    allow: [{programs: [any]}]\n"
	a, b := twoProcesses(t, func(o *processOptions) {
		o.Policy = "containers:\n  - name: open" + open + "  - name: here\n    nodes: []" + open + "  - name: secret" + open
		if o.Name == "b" {
			o.Policy = strings.Replace(o.Policy, "secret", "secret\n    nodes: [c]", 1)
		}
	})
	for _, container := range []string{"here", "secret", "open"} {
		a.run(t, container, "counter", module(t, built.counter))
		if got := a.ask(t, container, "counter", "5"); got != "5" {
			t.Errorf("in %s the counter is %s", container, got)
		}
	}
	startPuppet(t, b, "open").must(order{Op: "sendrec", To: "counter", Data: "1"}) // b knows all that it ever will
	for container, who := range map[string]string{"here": "at node a", "secret": "at node b"} {
		startPuppet(t, b, container).fails(order{Op: "sendrec", To: "counter", Wait: -1}, dvs.ErrNotBound)
		_, err := a.Move(patient(t), dvshost.MoveRequest{Container: container, Name: "counter", To: "b"})
		if err == nil || !strings.Contains(err.Error(), dvshost.ErrNotShared.Error()) || !strings.Contains(err.Error(), who) {
			t.Errorf("a move of what is in %s: %v", container, err)
		}
		if got := a.ask(t, container, "counter", "1"); got != "6" {
			t.Errorf("in %s the counter is %s", container, got)
		}
	}
	if _, err := a.Move(patient(t), dvshost.MoveRequest{Container: "open", Name: "counter", To: "b"}); err != nil {
		t.Error(err)
	}
	if got := startPuppet(t, a, "open").must(order{Op: "sendrec", To: "counter", Data: "1"}); got.Data != "7" {
		t.Errorf("after its move the counter is %s", got.Data)
	}
}

// Line 10: who may connect at all is the node's user, and the members of a group if there is one; who may move things is the node's user.
func TestLine10WhoMayConnectProcesses(t *testing.T) {
	a, b := twoProcesses(t, func(o *processOptions) {
		if o.Name == "b" {
			o.Group = fmt.Sprint(os.Getgid())
			o.Policy = fmt.Sprintf("containers: [{name: shop, allow: [{programs: ['group:%d']}]}, {name: other, allow: [{programs: ['user:%d']}]}]", os.Getgid(), os.Getuid())
		}
	})
	for socket, want := range map[string]os.FileMode{
		a.socket: 0o600, dvshost.AdminSocket(a.socket): 0o600, b.socket: 0o660, dvshost.AdminSocket(b.socket): 0o600,
	} {
		i, err := os.Stat(socket)
		if err != nil || i.Mode().Perm() != want || int(i.Sys().(*syscall.Stat_t).Gid) != os.Getgid() {
			t.Errorf("%s has mode %v, want %v: %v", socket, i.Mode(), want, err)
		}
	}
	if os.Getuid() != 0 {
		t.Log("that others are refused is tried by root only")
		return
	}
	if err := os.Chmod(filepath.Dir(filepath.Dir(a.socket)), 0o711); err != nil { // the test's own directory
		t.Fatal(err)
	}
	nobody := newPuppetAs(t, &syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{uint32(os.Getgid())}})
	if got := nobody.do(order{Op: "connect", At: a.socket, To: "shop"}); !strings.Contains(got.Err, "permission denied") || !strings.Contains(got.Err, "--group") {
		t.Errorf("somebody else was told %q", got.Err)
	}
	nobody.fails(order{Op: "connect", At: b.socket, To: "other"}, dvs.ErrContainer)
	nobody.must(order{Op: "connect", At: b.socket, To: "shop"}) // by a supplementary group
}
