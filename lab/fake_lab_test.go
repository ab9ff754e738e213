//go:build lab

package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"
)

// TestMain lets the test binary stand in for godwit: the lab starts it with godwit's command lines.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		if err := fakeGodwit(os.Args[1], os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func fakeGodwit(command string, args []string) error {
	if command == "lab" || command == "token" || command == "get" {
		command, args = command+" "+args[0], args[1:]
	}
	f := flag.NewFlagSet(command, flag.ContinueOnError)
	opt := make(map[string]*string)
	for _, name := range []string{
		"config", "data", "name", "listen", "advertise", "socket", "server", "role", "site", "token", "controller",
		"address", "uplink-address", "bgp-neighbor", "asn", "o",
	} {
		opt[name] = f.String(name, "", "")
	}
	if err := f.Parse(args); err != nil {
		return err
	}
	socket := strings.TrimPrefix(*opt["server"], "unix://")
	switch command {
	case "lab supervise":
		cfg, err := LoadConfig(*opt["config"])
		if err != nil {
			return err
		}
		return Supervise(context.Background(), cfg)
	case "init":
		return os.MkdirAll(*opt["data"], 0o700)
	case "controller":
		return fakeController(*opt["socket"], *opt["listen"])
	case "token create":
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return err
		}
		fmt.Println("token-" + *opt["name"])
		return conn.Close()
	case "join":
		conn, err := net.Dial("tcp", *opt["controller"])
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := os.MkdirAll(*opt["data"], 0o700); err != nil {
			return err
		}
		name := strings.TrimPrefix(*opt["token"], "token-")
		return os.WriteFile(filepath.Join(*opt["data"], "joined"), []byte(name+" "+*opt["controller"]), 0o600)
	case "agent":
		return fakeAgent(*opt["data"], *opt["uplink-address"], *opt["bgp-neighbor"])
	case "get hosts", "get edges":
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return err
		}
		_, err = io.Copy(os.Stdout, conn)
		return err
	}
	return fmt.Errorf("fake godwit knows no %s", command)
}

// fakeController calls those ready whose agents are connected.
func fakeController(socket, listen string) error {
	_ = os.Remove(socket)
	local, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	remote, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	ready := make(map[string]bool)
	go func() {
		for {
			conn, err := local.Accept()
			if err != nil {
				return
			}
			type object struct {
				Name  string `json:"name"`
				Ready bool   `json:"ready"`
			}
			var items []object
			mu.Lock()
			for name := range ready {
				items = append(items, object{name, true})
			}
			mu.Unlock()
			_ = json.NewEncoder(conn).Encode(map[string]any{"items": items})
			conn.Close()
		}
	}()
	for {
		conn, err := remote.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			in := bufio.NewScanner(conn)
			if in.Scan() {
				name := in.Text()
				mu.Lock()
				ready[name] = true
				mu.Unlock()
				in.Scan()
				mu.Lock()
				delete(ready, name)
				mu.Unlock()
			}
		}()
	}
}

// testGuest is the address that the fake edges announce.
const testGuest = "203.0.113.10"

// fakeAgent stays connected to the controller; an edge's also speaks BGP.
func fakeAgent(data, uplink, neighbour string) error {
	joined, err := os.ReadFile(filepath.Join(data, "joined"))
	if err != nil {
		return err
	}
	name, controller, _ := strings.Cut(string(joined), " ")
	if uplink != "" {
		if err := fakeBGP(uplink, neighbour); err != nil {
			return err
		}
	}
	conn, err := net.Dial("tcp", controller)
	if err != nil {
		return err
	}
	fmt.Fprintln(conn, name)
	_, err = conn.Read(make([]byte, 1))
	return err
}

func fakeBGP(uplink, neighbour string) error {
	ctx := context.Background()
	s := server.NewBgpServer(server.LoggerOption(slog.New(slog.NewTextHandler(os.Stderr, nil)), nil))
	go s.Serve()
	err := s.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{Asn: asn, RouterId: uplink, ListenPort: -1}})
	if err != nil {
		return err
	}
	nlri, err := bgp.NewIPAddrPrefix(netip.MustParsePrefix(testGuest + "/32"))
	if err != nil {
		return err
	}
	hop, err := bgp.NewPathAttributeNextHop(netip.MustParseAddr(uplink))
	if err != nil {
		return err
	}
	// The west has the guest in this lab, the east is merely willing.
	preference := uint32(100)
	if uplink == "192.0.2.2" {
		preference = 200
	}
	_, err = s.AddPath(apiutil.AddPathRequest{Paths: []*apiutil.Path{{
		Family: bgp.RF_IPv4_UC, Nlri: nlri,
		Attrs: []bgp.PathAttributeInterface{bgp.NewPathAttributeOrigin(0), hop, bgp.NewPathAttributeLocalPref(preference)},
	}}})
	if err != nil {
		return err
	}
	return s.AddPeer(ctx, &api.AddPeerRequest{Peer: &api.Peer{
		Conf:      &api.PeerConf{NeighborAddress: neighbour, PeerAsn: asn},
		Transport: &api.Transport{LocalAddress: uplink},
		Timers:    &api.Timers{Config: &api.TimersConfig{ConnectRetry: 1, IdleHoldTimeAfterReset: 1}},
	}})
}
