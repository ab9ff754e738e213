package lab

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestZeroFieldsTakeTheDefaults(t *testing.T) {
	cfg, err := Config{}.withDefaults()
	if err != nil || cfg.Name != DefaultName || cfg.RTT != DefaultRTT || cfg.Bandwidth != DefaultBandwidth || cfg.MTU != DefaultMTU || cfg.Controllers != 1 {
		t.Errorf("%+v, %v", cfg, err)
	}
}

func TestAllFaultsOfAConfigurationAreToldAtOnce(t *testing.T) {
	_, err := Config{Name: "../etc", Loss: 2, Controllers: 7, MTU: 5, Bandwidth: 1}.withDefaults()
	for _, part := range []string{"name", "loss", "controllers", "MTU", "bandwidth"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s is missing in %v", part, err)
		}
	}
}

func TestWithoutRootTheLabSaysSo(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("this is about users who are not root")
	}
	if _, err := Up(context.Background(), Config{}, nil); !errors.Is(err, ErrNotRoot) {
		t.Error(err)
	}
	if _, err := Down(context.Background(), "lab"); !errors.Is(err, ErrNotRoot) {
		t.Error(err)
	}
}

func TestOpeningALabThatIsNotUpSaysHowToStartOne(t *testing.T) {
	_, err := Open("t-none")
	if !errors.Is(err, ErrNotUp) || !strings.Contains(err.Error(), "godwit lab up") {
		t.Error(err)
	}
}

func TestANameCannotLeaveTheLabsFolder(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gets that far")
	}
	for _, name := range []string{"..", "a/b", "x/../../../tmp"} {
		if _, err := Down(context.Background(), name); err == nil {
			t.Errorf("took down %q", name)
		}
	}
}

func TestEveryNodeIsCabledAndEveryGatewayIsANeighbour(t *testing.T) {
	for _, n := range nodes {
		if len(addressesOf(n.name)) == 0 {
			t.Errorf("%s has no address", n.name)
		}
		if n.gateway == "" {
			continue
		}
		found := false
		for _, c := range cables {
			for _, ports := range [][2]port{{c.a, c.b}, {c.b, c.a}} {
				found = found || ports[0].node == n.name && ports[1].address.Addr().String() == n.gateway &&
					ports[0].address.Masked() == ports[1].address.Masked()
			}
		}
		if !found {
			t.Errorf("%s cannot reach its gateway %s", n.name, n.gateway)
		}
	}
}

func TestAnEdgeIsToldItsSideOfTheUplink(t *testing.T) {
	n, err := findNode("east-edge")
	if err != nil {
		t.Fatal(err)
	}
	got := commands{binary: "godwit", dir: "/d"}.agent(n)
	want := strings.Fields("godwit agent --data /d/east-edge/agent --address 198.51.100.17:7444" +
		" --uplink-address 192.0.2.6 --bgp-neighbor 192.0.2.5 --asn 64512")
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestReadyObjectsAreFoundHoweverTheyAreWrapped(t *testing.T) {
	for _, text := range []string{
		`{"items":[{"name":"a","ready":true},{"name":"b","ready":false},{"name":"c"}]}`,
		`[{"host":{"name":"a","ready":true}}]`,
		`{"kind":"Host","name":"a","ready":true}` + "\n" + `{"name":"b"}`,
	} {
		ready := make(map[string]bool)
		if err := collectReady([]byte(text), ready); err != nil || !ready["a"] || ready["b"] || ready["c"] {
			t.Errorf("%s: %v, %v", text, ready, err)
		}
	}
	if err := collectReady([]byte("no json"), map[string]bool{}); err == nil {
		t.Error("rubbish was read")
	}
}

func TestSessionsAreReadFromBirdsTable(t *testing.T) {
	lines := strings.Split(`Name       Proto      Table      State  Since         Info
device1    Device     ---        up     21:00:01.000
west_edge  BGP        ---        up     21:00:02.000  Established
east_edge  BGP        ---        start  21:00:02.000  Active        Socket: Connection refused
north      BGP        ---        start  21:00:02.000`, "\n")
	want := []BGPSession{{"west_edge", "Established"}, {"east_edge", "Active Socket: Connection refused"}, {"north", "start"}}
	if got := parseSessions(lines); !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
}

func FuzzRequestIn(f *testing.F) {
	f.Add([]byte("\x00\x00\x1b\x58\x00\x00\x00\x00godwit-path-"))
	f.Add([]byte("godwit-path-"))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if p := requestIn(frame); p != nil && !strings.HasPrefix(string(p), string(pathMark)) {
			t.Errorf("%q", p)
		}
	})
}
