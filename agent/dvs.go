package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"

	"github.com/godwit-project/godwit/agent/dvshost"
	"github.com/godwit-project/godwit/agent/dvshost/balance"
	"github.com/godwit-project/godwit/agent/dvshost/policy"
	"github.com/godwit-project/godwit/cluster/identity"
)

const (
	// dvsDir, in the agent's directory, is the node's.
	dvsDir = "dvs"
	// dvsPort is where a host's node listens if nothing else is said.
	dvsPort = "7445"
)

// DVSOptions are for the node of the DVS that a host runs. Its name is the host's, it proves it with the host's certificate, and it learns from
// the controller where those of the other hosts are. Programs and modules in it end with the agent.
type DVSOptions struct {
	// Socket is where programs connect.
	Socket string
	// Listen is the HOST:PORT for the nodes of other hosts; "" is port 7445 of the agent's address.
	Listen string
	// Streams is the HOST:PORT for connections between programs here and at other hosts; "" is a free port at the host of Listen, DVSOff none.
	Streams string
	// Balance moves processes to other hosts by load; nil leaves them where they are.
	Balance *balance.Limits
	// Native is for programs that are no modules.
	Native dvshost.NativeOptions
	// Group and Policy say who may connect, and do what: see dvshost.NodeOptions.
	Group  string
	Policy *policy.Policy
}

// DVSOff is no streams.
const DVSOff = "off"

// dvsNode is a host's node, as the agent knows it.
type dvsNode struct {
	options dvshost.NodeOptions
	host    string // where other hosts reach this one
	file    string // the other nodes, as was heard last
	known   map[string]string
	changes chan map[string]string
	ready   chan struct{} // closed when it listens
	address string        // then: at which other hosts reach it
	logger  *slog.Logger
}

// newDVSNode returns nil if none is to run.
func newDVSNode(o *DVSOptions, dir, address string, who identity.Identity, credentials identity.Credentials, logger *slog.Logger) (*dvsNode, error) {
	if o == nil {
		return nil, nil
	}
	if who.Kind != identity.Host {
		return nil, fmt.Errorf("%s is no host: only hosts run a node of the DVS, leave --dvs out", who)
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	d := &dvsNode{host: host, file: filepath.Join(dir, dvsDir, "nodes.json"), changes: make(chan map[string]string, 1), ready: make(chan struct{}), logger: logger}
	d.options = dvshost.NodeOptions{
		Name: who.Name, Socket: o.Socket, Listen: o.Listen, Streams: o.Streams, Balance: o.Balance, Native: o.Native, Group: o.Group, Policy: o.Policy, Log: logger,
		State: filepath.Join(dir, dvsDir, "state"), Cache: filepath.Join(dir, dvsDir, "modules"), Changes: d.changes,
	}
	if d.options.Listen == "" {
		d.options.Listen = net.JoinHostPort(host, dvsPort)
	}
	switch d.options.Streams {
	case DVSOff:
		d.options.Streams = ""
	case "":
		listen, _, err := net.SplitHostPort(d.options.Listen)
		if err != nil {
			return nil, fmt.Errorf("--dvs-listen %q: want HOST:PORT: %w", o.Listen, err)
		}
		d.options.Streams = net.JoinHostPort(listen, "0")
	}
	if d.options.Proof, err = proofOf(credentials); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, dvsDir), 0o700); err != nil {
		return nil, fmt.Errorf("agent directory: %w", err)
	}
	if err := readJSON(d.file, &d.known); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	d.options.Peers, d.options.Ready = d.known, d.listens
	return d, nil
}

// proofOf has nodes be hosts of the cluster. Other members of it have certificates of the same authority, and names of their own: they are none.
func proofOf(credentials identity.Credentials) (*dvshost.Proof, error) {
	server, err := credentials.ServerTLS(true, identity.Agent)
	if err != nil {
		return nil, err
	}
	return &dvshost.Proof{
		Server: server,
		Client: func(node string) (*tls.Config, error) {
			return credentials.ClientTLSTo(identity.Identity{Role: identity.Agent, Kind: identity.Host, Name: node})
		},
		Names: func(state tls.ConnectionState) ([]string, error) {
			who, err := identity.PeerIdentity(state)
			if err == nil && who.Kind != identity.Host {
				err = fmt.Errorf("%w: %s is no host", dvshost.ErrIdentity, who)
			}
			return []string{who.Name}, err
		},
	}, nil
}

// run serves until ctx ends.
func (d *dvsNode) run(ctx context.Context) error {
	if err := dvshost.Serve(ctx, d.options); err != nil {
		return fmt.Errorf("node of the DVS: %w", err)
	}
	return nil
}

func (d *dvsNode) listens(address string) {
	d.address = d.reached(address)
	d.logger.Info("DVS node ready", "socket", d.options.Socket, "listen", address)
	close(d.ready)
}

// registered waits until it listens, and returns the address to register; "" if ctx ended before, or there is no node.
func (d *dvsNode) registered(ctx context.Context) string {
	if d == nil {
		return ""
	}
	select {
	case <-d.ready:
		return d.address
	case <-ctx.Done():
		return ""
	}
}

// reached is where other hosts reach what listens at an address.
func (d *dvsNode) reached(address string) string {
	host, port, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		return net.JoinHostPort(d.host, port)
	}
	return address
}

// told takes in what the controller says of the nodes of all hosts. It is kept, so that they find each other when the controller is away.
// It is called by one goroutine at a time.
func (d *dvsNode) told(all map[string]string) {
	if d == nil {
		return
	}
	all = maps.Clone(all)
	delete(all, d.options.Name)
	if maps.Equal(all, d.known) {
		return
	}
	d.known = all
	if err := writeJSON(d.file, all, false); err != nil {
		d.logger.Warn("the nodes of the DVS are not kept for the next start", "err", err)
	}
	select { // what nobody has taken yet is over
	case <-d.changes:
	default:
	}
	d.changes <- all
}
