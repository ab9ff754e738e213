//go:build lab

package lab

import (
	"bytes"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/godwit-project/godwit/lab/namespace"
	"github.com/godwit-project/godwit/lab/probe"
)

// run runs a line of words in a node.
func run(t *testing.T, l *Lab, node, line string) {
	t.Helper()
	var out bytes.Buffer
	code, err := l.Exec(t.Context(), node, strings.Fields(line), Stdio{Out: &out, Err: &out})
	if err != nil || code != 0 {
		t.Fatalf("in %s: %s: %d, %v, %s", node, line, code, err, out.String())
	}
}

// echo answers UDP packets in a node, as a guest would.
func echo(t *testing.T, l *Lab, node string) {
	t.Helper()
	var conn net.PacketConn
	err := namespace.Do(namespaceOf(l.name, node), func() (err error) {
		conn, err = net.ListenPacket("udp4", testGuest+":7000")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo(buf[:n], from)
		}
	}()
	t.Cleanup(func() { conn.Close(); <-ended })
}

func TestAPathShowsTheDetourThroughATunnel(t *testing.T) {
	l := up(t, Config{Name: "t-path"})
	for _, site := range sites {
		run(t, l, site+"-host", "ip addr add "+testGuest+"/32 dev lo")
		echo(t, l, site+"-host")
	}
	run(t, l, "west-edge", "ip route add 203.0.113.10 via 198.51.100.2")
	run(t, l, "east-edge", "ip route add 203.0.113.10 via 198.51.100.18")
	trace := func(want ...string) {
		t.Helper()
		var got []string
		var err error
		for range 20 { // routes take a moment to change
			if got, err = l.Path(t.Context(), "client", testGuest); err == nil && slices.Equal(got, want) {
				return
			}
		}
		t.Errorf("path %v, %v; want %v", got, err, want)
	}
	trace("client", "core", "west-edge", "west-host")

	run(t, l, "west-edge", "ip link add tun type vxlan id 7 local 192.0.2.2 remote 192.0.2.6 dstport 4789")
	run(t, l, "east-edge", "ip link add tun type vxlan id 7 local 192.0.2.6 remote 192.0.2.2 dstport 4789")
	run(t, l, "west-edge", "ip addr add 169.254.7.1/30 dev tun")
	run(t, l, "east-edge", "ip addr add 169.254.7.2/30 dev tun")
	run(t, l, "west-edge", "ip link set tun up")
	run(t, l, "east-edge", "ip link set tun up")
	run(t, l, "west-edge", "ip route replace 203.0.113.10 via 169.254.7.2")
	trace("client", "core", "west-edge", "core", "east-edge", "east-host")

	if err := l.PowerOff(t.Context(), "west-edge"); err != nil { // so that the east's route is the only one
		t.Fatal(err)
	}
	trace("client", "core", "east-edge", "east-host")
}

func TestAProbeFromTheClientMeasuresTheWay(t *testing.T) {
	l := up(t, Config{Name: "t-probe"})
	var listener net.Listener
	err := namespace.Do(namespaceOf(l.name, "west-host"), func() (err error) {
		listener, err = net.Listen("tcp4", "198.51.100.2:7001")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- probe.Serve(listener) }()
	t.Cleanup(func() { listener.Close(); <-served })

	conn, err := l.Dial(t.Context(), "client", "tcp4", "198.51.100.2:7001")
	if err != nil {
		t.Fatal(err)
	}
	r := probe.Run(t.Context(), conn, probe.Options{Duration: 2e9})
	if !r.Clean() || r.RTTMedianMs < 10 {
		t.Errorf("%+v", r)
	}
	t.Logf("RTT median %.2f ms, 99 %% %.2f ms, longest gap %.2f ms, sender late %.2f ms, reader late %.2f ms, %d sent",
		r.RTTMedianMs, r.RTT99Ms, r.LongestGapMs, r.SenderLateMaxMs, r.ReaderLateMaxMs, r.Sent)
}
