package dvshost

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"github.com/godwit-project/godwit/dvs/replica/register"
	"github.com/godwit-project/godwit/server/process"
)

// Peer is another host.
type Peer struct {
	client
	name    string
	address func() string
	dial    func(ctx context.Context) (net.Conn, error)
}

// NewPeer returns the host of that name, which is reached by dial; it has to make sure that it is the one. address, which may change, is for people.
func NewPeer(name string, address func() string, dial func(ctx context.Context) (net.Conn, error)) *Peer {
	return &Peer{client: newClient(dial), name: name, address: address, dial: dial}
}

// SetPeers replaces the other hosts. What is under way with one that is left out goes on if that comes back.
func (h *Host) SetPeers(all map[string]*Peer) { h.peers.Store(&all) }

func (h *Host) allPeers() map[string]*Peer { return *h.peers.Load() }

// peer returns another host, or nil.
func (h *Host) peer(name string) *Peer { return h.allPeers()[name] }

func (h *Host) peerOf(name string) (*Peer, error) {
	if p := h.peer(name); p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("%q: %w", name, ErrNoPeer)
}

// check asks the host for its name.
func (p *Peer) check(ctx context.Context) error {
	name, err := get[string](ctx, p.client, "/v1/name")
	if err != nil {
		return err
	}
	if name != p.name {
		return fmt.Errorf("node %q is at %s", name, p.address())
	}
	return nil
}

// book asks for the id of its record of moves.
func (p *Peer) book(ctx context.Context) (string, error) {
	return get[string](ctx, p.client, "/v1/book")
}

// Step has a step of a move done.
func (p *Peer) Step(ctx context.Context, r StepRequest) (StepAnswer, error) {
	return post[StepAnswer](ctx, p.client, "/v1/step", r)
}

// Moves asks whether it has a move at work.
func (p *Peer) Moves(ctx context.Context, k key, epoch uint64) (bool, error) {
	return post[bool](ctx, p.client, "/v1/moves", StepRequest{Container: k.container, Name: k.name, Epoch: epoch})
}

// SendModule sends a module.
func (p *Peer) SendModule(ctx context.Context, module []byte) error {
	return p.ask(ctx, http.MethodPut, "/v1/module", nil, module, &struct{}{})
}

// SendPages puts pages into a standby.
func (p *Peer) SendPages(ctx context.Context, k key, epoch uint64, id baseID, pages []process.Page) error {
	q := url.Values{
		"container": {k.container}, "name": {k.name}, "epoch": {strconv.FormatUint(epoch, 10)}, "base": {hex.EncodeToString(id[:])},
	}
	return p.ask(ctx, http.MethodPut, "/v1/pages", q, process.AppendPages(nil, pages), &struct{}{})
}

// Found makes it one of those that keep a group's record.
func (p *Peer) Found(ctx context.Context, g GroupSpec) error {
	_, err := post[struct{}](ctx, p.client, "/v1/group/found", g)
	return err
}

// Join starts its part in a group.
func (p *Peer) Join(ctx context.Context, g GroupSpec) error {
	_, err := post[struct{}](ctx, p.client, "/v1/group/join", g)
	return err
}

// EndGroup ends its part in a group.
func (p *Peer) EndGroup(ctx context.Context, g GroupSpec) error {
	_, err := post[struct{}](ctx, p.client, "/v1/group/end", g)
	return err
}

// Ask asks about a group's record.
func (p *Peer) Ask(ctx context.Context, q GroupAsk) (register.Answer, error) {
	return post[register.Answer](ctx, p.client, "/v1/group/ask", q)
}

// DescribeGroup asks for its part in a group, for a person.
func (p *Peer) DescribeGroup(ctx context.Context, id string) (string, error) {
	return post[string](ctx, p.client, "/v1/group/describe", GroupAsk{ID: id})
}

// linkProtocol is what a connection between two replicas is upgraded to.
const linkProtocol = "godwit-replica"

// Link opens a connection to its replica of a group, for that of the node from to send on.
func (p *Peer) Link(ctx context.Context, id, from string) (net.Conn, error) {
	c, err := p.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	r := bufio.NewReader(c)
	_, err = fmt.Fprintf(c, "GET /v1/group/link?id=%s&from=%s HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", url.QueryEscape(id), url.QueryEscape(from), linkProtocol)
	var a *http.Response
	if err == nil {
		a, err = http.ReadResponse(r, nil)
	}
	if err == nil && a.StatusCode != http.StatusSwitchingProtocols {
		err = errors.Join(fmt.Errorf("node %s: %s", p.name, a.Status), a.Body.Close())
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &readAgain{Conn: c, r: r}, nil
}
