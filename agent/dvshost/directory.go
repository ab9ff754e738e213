package dvshost

import (
	"context"
	"fmt"
	"maps"
	"net"
	"sync"
)

// directory is where the other nodes are, as was heard last.
type directory struct {
	mu        sync.Mutex
	addresses map[string]string // HOST:PORT by node name
	linked    map[string]*Peer  // all that ever were: a link is for the life of the node
}

func (d *directory) replace(all map[string]string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.addresses = maps.Clone(all)
}

// address returns where a node is; "" if it is none any more.
func (d *directory) address(name string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.addresses[name]
}

// link makes sure that there is a link to each of these nodes, and returns them as hosts. An address counts from the next connection on.
func (s *served) link(all map[string]string) (map[string]*Peer, error) {
	all = maps.Clone(all)
	delete(all, s.o.Name)
	for _, address := range all {
		if err := s.tls.allows(address); err != nil {
			return nil, err
		}
	}
	d := &s.others
	d.replace(all)
	if d.linked == nil {
		d.linked = map[string]*Peer{}
	}
	peers := map[string]*Peer{}
	for name := range all {
		if d.linked[name] == nil {
			dial := s.dialer(name)
			p := NewPeer(name, func() string { return d.address(name) }, dial)
			if s.o.Name > name {
				dial = nil // one of the two does
			}
			if err := s.node.LinkWith(name, dial, s.o.Links); err != nil {
				return nil, err
			}
			d.linked[name] = p
		}
		peers[name] = d.linked[name]
	}
	return peers, nil
}

// meet takes other nodes for those of before. It is called by one goroutine alone.
func (s *served) meet(all map[string]string) error {
	peers, err := s.link(all)
	if err != nil {
		return err
	}
	s.host.SetPeers(peers)
	return nil
}

// dialer returns the function that connects to a node, wherever that is at the moment.
func (s *served) dialer(name string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		address := s.others.address(name)
		if address == "" {
			return nil, fmt.Errorf("%q: %w", name, ErrNoPeer)
		}
		return s.tls.dial(ctx, name, address)
	}
}
