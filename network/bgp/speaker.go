// Package bgp announces host routes to the provider's routers with an embedded GoBGP: outgoing sessions only, nothing
// is listened on, and the kernel's routes are not touched.
//
// Graceful restart is negotiated, so that when the process is killed its neighbours keep the routes for the restart
// time; the next process starts with Restarting set and everything that was announced given up front, and the
// neighbours see a refresh instead of a withdrawal.
package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"
)

const (
	defaultHoldTime = 9 * time.Second
	// RestartTime is how long neighbours keep the routes of a speaker that has died.
	RestartTime = 120 * time.Second
	// deferral bounds how long a restarting speaker waits for its neighbours' end-of-RIB before it announces.
	deferral = 5 * time.Second
	// connectRetry is the pause between attempts to reach a neighbour.
	connectRetry = 2 * time.Second
)

// Neighbor is a router that routes are announced to.
type Neighbor struct {
	Address  netip.Addr
	ASN      uint32
	Password string        // TCP MD5; empty: none
	HoldTime time.Duration // 0: 9 s. Whole seconds, 3 s at least
}

// Route is one announcement of a /32.
type Route struct {
	Address   netip.Addr
	LocalPref uint32 // sent to neighbours of the own AS only
}

// Options configure a Speaker.
type Options struct {
	Logger    *slog.Logger
	RouterID  netip.Addr
	ASN       uint32
	NextHop   netip.Addr // own address towards the neighbours; also where sessions are made from
	Neighbors []Neighbor
	// Routes are announced as soon as a session is up. Restarting says that an earlier process announced them and
	// that packets were forwarded all the while.
	Routes     []Route
	Restarting bool
}

// State says how the session with a neighbour is.
type State struct {
	Neighbor    netip.Addr
	Established bool
	Session     string // GoBGP's word: idle, active, established, …
}

// Speaker is a running BGP speaker.
type Speaker struct {
	server  *server.BgpServer
	nextHop netip.Addr
	level   *slog.LevelVar
	serving sync.WaitGroup
}

// Start runs a speaker until Close. It does not wait for sessions.
func Start(ctx context.Context, opts Options) (*Speaker, error) {
	level := new(slog.LevelVar)
	level.Set(slog.LevelWarn)
	logger := slog.New(floor{opts.Logger.Handler(), level})
	s := &Speaker{server: server.NewBgpServer(server.LoggerOption(logger, level)), nextHop: opts.NextHop, level: level}
	s.serving.Go(s.server.Serve)
	if err := s.configure(ctx, opts); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Speaker) configure(ctx context.Context, opts Options) error {
	err := s.server.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{
		Asn: opts.ASN, RouterId: opts.RouterID.String(), ListenPort: -1,
	}})
	if err != nil {
		return fmt.Errorf("bgp: start: %w", err)
	}
	for _, r := range opts.Routes {
		if err := s.Announce(r); err != nil {
			return err
		}
	}
	for _, n := range opts.Neighbors {
		if err := s.server.AddPeer(ctx, &api.AddPeerRequest{Peer: peer(n, opts)}); err != nil {
			return fmt.Errorf("bgp: add neighbour %s: %w", n.Address, err)
		}
	}
	return nil
}

func peer(n Neighbor, opts Options) *api.Peer {
	hold := n.HoldTime
	if hold <= 0 {
		hold = defaultHoldTime
	}
	seconds := max(uint64(hold/time.Second), 3)
	return &api.Peer{
		Conf:      &api.PeerConf{NeighborAddress: n.Address.String(), PeerAsn: n.ASN, LocalAsn: opts.ASN, AuthPassword: n.Password},
		Transport: &api.Transport{LocalAddress: opts.NextHop.String()},
		Timers: &api.Timers{Config: &api.TimersConfig{
			HoldTime: seconds, KeepaliveInterval: seconds / 3,
			ConnectRetry: uint64(connectRetry / time.Second), IdleHoldTimeAfterReset: 1,
		}},
		GracefulRestart: &api.GracefulRestart{
			Enabled: true, RestartTime: uint32(RestartTime / time.Second),
			DeferralTime: uint32(deferral / time.Second), LocalRestarting: opts.Restarting,
		},
		AfiSafis: []*api.AfiSafi{{
			Config: &api.AfiSafiConfig{
				Family:  &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST},
				Enabled: true,
			},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}},
		}},
	}
}

// Announce announces a route, or changes its preference. Idempotent.
func (s *Speaker) Announce(r Route) error {
	path, err := s.path(r)
	if err != nil {
		return err
	}
	answers, err := s.server.AddPath(apiutil.AddPathRequest{Paths: []*apiutil.Path{path}})
	if err == nil && len(answers) > 0 {
		err = answers[0].Error
	}
	if err != nil {
		return fmt.Errorf("bgp: announce %s: %w", r.Address, err)
	}
	return nil
}

// Withdraw withdraws an announcement; one that was never made is no error.
func (s *Speaker) Withdraw(address netip.Addr) error {
	path, err := s.path(Route{Address: address})
	if err != nil {
		return err
	}
	if err := s.server.DeletePath(apiutil.DeletePathRequest{Paths: []*apiutil.Path{path}}); err != nil {
		return fmt.Errorf("bgp: withdraw %s: %w", address, err)
	}
	return nil
}

func (s *Speaker) path(r Route) (*apiutil.Path, error) {
	nlri, err := bgp.NewIPAddrPrefix(netip.PrefixFrom(r.Address, r.Address.BitLen()))
	if err != nil {
		return nil, fmt.Errorf("bgp: route to %s: %w", r.Address, err)
	}
	hop, err := bgp.NewPathAttributeNextHop(s.nextHop)
	if err != nil {
		return nil, fmt.Errorf("bgp: next hop %s: %w", s.nextHop, err)
	}
	return &apiutil.Path{
		Family: bgp.RF_IPv4_UC,
		Nlri:   nlri,
		Attrs: []bgp.PathAttributeInterface{
			bgp.NewPathAttributeOrigin(uint8(bgp.BGP_ORIGIN_ATTR_TYPE_IGP)),
			hop,
			bgp.NewPathAttributeLocalPref(r.LocalPref),
		},
	}, nil
}

// Sessions says how each neighbour's session is.
func (s *Speaker) Sessions(ctx context.Context) ([]State, error) {
	var out []State
	err := s.server.ListPeer(ctx, &api.ListPeerRequest{}, func(p *api.Peer) {
		address, err := netip.ParseAddr(p.GetConf().GetNeighborAddress())
		if err != nil {
			return
		}
		state := p.GetState().GetSessionState()
		out = append(out, State{
			Neighbor: address, Established: state == api.PeerState_SESSION_STATE_ESTABLISHED,
			Session: sessionWord(state),
		})
	})
	if err != nil {
		return nil, fmt.Errorf("bgp: list sessions: %w", err)
	}
	return out, nil
}

func sessionWord(s api.PeerState_SessionState) string {
	switch s {
	case api.PeerState_SESSION_STATE_ESTABLISHED:
		return "established"
	case api.PeerState_SESSION_STATE_OPENSENT, api.PeerState_SESSION_STATE_OPENCONFIRM:
		return "opening"
	case api.PeerState_SESSION_STATE_CONNECT, api.PeerState_SESSION_STATE_ACTIVE:
		return "connecting"
	default:
		return "idle"
	}
}

// Close ends the sessions without a notification: neighbours that know graceful restart keep the routes for
// RestartTime. Withdraw first what shall go at once.
func (s *Speaker) Close() error {
	err := s.server.StopBgp(context.Background(), &api.StopBgpRequest{AllowGracefulRestart: true})
	s.serving.Wait()
	s.level.Set(silent) // Stop complains that BGP is stopped already; it is called to end the BFD listener
	s.server.Stop()
	if err != nil {
		return fmt.Errorf("bgp: stop: %w", err)
	}
	return nil
}
