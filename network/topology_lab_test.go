//go:build lab

package network

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

// The lab, every box a network namespace:
//
//	client ─ core (BIRD) ┬ west-edge ┬ west-host ─ tap
//	                     │           └ west-peer, another machine of the site
//	                     └ east-edge ─ east-host ─ tap
const (
	labASN     = 64512
	clientIP   = "10.0.9.2"
	coreWestIP = "10.0.1.1"
	coreEastIP = "10.0.2.1"
	westEdgeIP = "10.0.1.2"
	eastEdgeIP = "10.0.2.2"
	westHostIP = "10.1.0.2"
	eastHostIP = "10.2.0.2"
)

type lab struct {
	t      *testing.T
	prefix string
	ctl    string // BIRD's control socket
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func needRoot(t *testing.T, programs ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("needs %s: %v", p, err)
		}
	}
}

func newLab(t *testing.T) *lab {
	needRoot(t, "ip", "bird", "birdc")
	l := &lab{t: t, prefix: fmt.Sprintf("gwnet%d-", os.Getpid())}
	for _, n := range []string{"client", "core", "west-edge", "east-edge", "west-host", "east-host", "west-peer"} {
		l.addNamespace(n)
	}
	l.wire("client", "core", clientIP+"/24", "10.0.9.1/24", "c")
	l.wire("west-edge", "core", westEdgeIP+"/24", coreWestIP+"/24", "w")
	l.wire("east-edge", "core", eastEdgeIP+"/24", coreEastIP+"/24", "e")
	l.wire("west-host", "west-edge", westHostIP+"/24", "10.1.0.1/24", "h")
	l.wire("east-host", "east-edge", eastHostIP+"/24", "10.2.0.1/24", "h")
	l.wire("west-peer", "west-edge", "10.1.1.2/24", "10.1.1.1/24", "p")
	l.ip("core", "route", "add", "10.1.0.0/16", "via", westEdgeIP)
	for node, gateway := range map[string]string{
		"client": "10.0.9.1", "west-edge": coreWestIP, "east-edge": coreEastIP, "west-host": "10.1.0.1", "east-host": "10.2.0.1", "west-peer": "10.1.1.1",
	} {
		l.ip(node, "route", "add", "default", "via", gateway)
	}
	l.inside("core", func() {
		if err := enableForwarding(); err != nil {
			t.Fatal(err)
		}
	})
	l.startBIRD()
	return l
}

func (l *lab) addNamespace(node string) {
	name := l.prefix + node
	run(l.t, "ip", "netns", "add", name)
	l.t.Cleanup(func() { run(l.t, "ip", "netns", "del", name) })
	l.ip(node, "link", "set", "lo", "up")
}

func (l *lab) ip(node string, args ...string) string {
	l.t.Helper()
	return run(l.t, "ip", append([]string{"-n", l.prefix + node}, args...)...)
}

// wire joins two nodes; a's end is "uplink", b's is "to-" and the letter.
func (l *lab) wire(a, b, addressA, addressB, letter string) {
	endA, endB := "uplink", "to-"+letter
	run(l.t, "ip", "link", "add", endA, "netns", l.prefix+a, "type", "veth", "peer", "name", endB, "netns", l.prefix+b)
	l.ip(a, "addr", "add", addressA, "dev", endA)
	l.ip(b, "addr", "add", addressB, "dev", endB)
	l.ip(a, "link", "set", endA, "up")
	l.ip(b, "link", "set", endB, "up")
}

// inside runs f on a thread in a node's namespace. The thread is thrown away.
func (l *lab) inside(node string, f func()) {
	l.t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		ns, err := netns.GetFromName(l.prefix + node)
		if err == nil {
			err = errors.Join(netns.Set(ns), ns.Close())
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		l.t.Fatalf("enter %s: %v", node, err)
	}
}

// start runs a program in a node until the test ends.
func (l *lab) start(node string, cmd *exec.Cmd) {
	l.t.Helper()
	var err error
	l.inside(node, func() { err = cmd.Start() })
	if err != nil {
		l.t.Fatalf("start %s in %s: %v", cmd.Path, node, err)
	}
	l.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
}

func (l *lab) startBIRD() {
	dir := l.t.TempDir()
	l.ctl = filepath.Join(dir, "bird.ctl")
	config := fmt.Sprintf(`
router id 10.0.0.1;
protocol device { scan time 1; }
protocol direct { ipv4; }
protocol kernel { ipv4 { import none; export where source = RTS_BGP; }; merge paths off; scan time 1; }
template bgp edge {
	graceful restart on;
	passive on;
	hold time 9;
	rr client;
	ipv4 { import all; export where source = RTS_BGP; };
}
protocol bgp west from edge { local %[1]s as %[5]d; neighbor %[2]s as %[5]d; }
protocol bgp east from edge { local %[3]s as %[5]d; neighbor %[4]s as %[5]d; }
`, coreWestIP, westEdgeIP, coreEastIP, eastEdgeIP, labASN)
	file := filepath.Join(dir, "bird.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		l.t.Fatal(err)
	}
	cmd := exec.Command("bird", "-f", "-c", file, "-s", l.ctl, "-P", filepath.Join(dir, "pid"))
	cmd.Stderr = os.Stderr
	l.start("core", cmd)
	until(l.t, "BIRD to answer", func() bool { return exec.Command("birdc", "-s", l.ctl, "show", "status").Run() == nil })
}

func (l *lab) birdc(args ...string) string {
	out, _ := exec.Command("birdc", append([]string{"-s", l.ctl}, args...)...).CombinedOutput()
	return string(out)
}

// coreHop is where the core's kernel sends an address.
func (l *lab) coreHop(address string) string {
	fields := strings.Fields(l.ip("core", "route", "show", address))
	for i, f := range fields {
		if f == "via" && i+1 < len(fields) {
			return fields[i+1]
		}
	}
	return ""
}

// until asks every few milliseconds and fails after half a minute.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// traces is everything of a node that a migration might leave behind.
func (l *lab) traces(node string) string {
	var lines []string
	for _, what := range [][]string{{"-o", "link"}, {"rule"}, {"-4", "route", "show", "table", "all"}, {"neigh", "show", "nud", "permanent"}} {
		for line := range strings.Lines(l.ip(node, what...)) {
			if strings.Contains(line, "cache") {
				continue
			}
			if _, rest, ok := strings.Cut(line, ": "); ok && what[len(what)-1] == "link" {
				line = rest // the index of a link that is made again differs
			}
			// A tun's carrier says whether somebody has it open, which is not what is asked here.
			line = strings.NewReplacer("NO-CARRIER,", "", ",LOWER_UP", "", " state UP", "", " state UNKNOWN", "", " state DOWN", "", " linkdown", "").Replace(line)
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return strings.Join(lines, "\n")
}

// helper is this test binary, run again inside a node: an agent that can be killed.
type helper struct {
	t    *testing.T
	cmd  *exec.Cmd
	in   *json.Encoder
	out  *bufio.Scanner
	pipe interface{ Close() error }
}

func (l *lab) helper(node string, config helperConfig) *helper {
	l.t.Helper()
	encoded, err := json.Marshal(config)
	if err != nil {
		l.t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperVariable+"="+string(encoded))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	h := &helper{t: l.t, cmd: cmd, in: json.NewEncoder(stdin), out: bufio.NewScanner(stdout), pipe: stdin}
	l.start(node, cmd)
	h.must(request{Op: "ready"})
	return h
}

func (h *helper) call(q request) reply {
	h.t.Helper()
	if err := h.in.Encode(q); err != nil {
		h.t.Fatalf("%s: %v", q.Op, err)
	}
	if !h.out.Scan() {
		h.t.Fatalf("%s: the helper died", q.Op)
	}
	var r reply
	if err := json.Unmarshal(h.out.Bytes(), &r); err != nil {
		h.t.Fatalf("%s: %v", q.Op, err)
	}
	return r
}

func (h *helper) must(q request) reply {
	h.t.Helper()
	r := h.call(q)
	if r.Error != "" {
		h.t.Fatalf("%s: %s", q.Op, r.Error)
	}
	return r
}

// kill ends the helper as kill -9 does an agent.
func (h *helper) kill() {
	h.cmd.Process.Kill()
	h.cmd.Wait()
}

// stop ends the helper in good order.
func (h *helper) stop() {
	h.t.Helper()
	h.must(request{Op: "close"})
	h.pipe.Close()
	h.cmd.Wait()
}

// stream sends a numbered packet every millisecond and takes note of the answers.
type stream struct {
	conn    *net.UDPConn
	stopped chan struct{}
	sending chan struct{}
	reading chan struct{}
	sent    int
	echoes  []uint32
	times   []time.Time
}

func (l *lab) stream(from, address string) *stream {
	l.t.Helper()
	s := &stream{stopped: make(chan struct{}), sending: make(chan struct{}), reading: make(chan struct{})}
	var err error
	l.inside(from, func() {
		s.conn, err = net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.ParseIP(address), Port: 7})
	})
	if err != nil {
		l.t.Fatal(err)
	}
	go s.send()
	go s.receive()
	return s
}
