package dvshost

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"github.com/godwit-project/godwit/dvs/node"
	"github.com/godwit-project/godwit/server/process"
)

// Peer is another host.
type Peer struct {
	client
	name, address string
}

// NewPeer returns the host of that name, which is reached by dial; it has to make sure that it is the one. address is for people.
func NewPeer(name, address string, dial func(ctx context.Context) (net.Conn, error)) *Peer {
	return &Peer{client: newClient(dial), name: name, address: address}
}

// check asks the host for its name.
func (p *Peer) check(ctx context.Context) error {
	name, err := get[string](ctx, p.client, "/v1/name")
	if err != nil {
		return err
	}
	if name != p.name {
		return fmt.Errorf("node %q is at %s", name, p.address)
	}
	return nil
}

// Prepare has a standby made.
func (p *Peer) Prepare(ctx context.Context, r PrepareRequest) error {
	_, err := post[struct{}](ctx, p.client, "/v1/prepare", r)
	return err
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

// Do has a step done.
func (p *Peer) Do(ctx context.Context, c node.Command) error {
	_, err := post[struct{}](ctx, p.client, "/v1/do", c)
	return err
}

// Drop ends a standby.
func (p *Peer) Drop(ctx context.Context, k key, epoch uint64) error {
	_, err := post[struct{}](ctx, p.client, "/v1/drop", DropRequest{Container: k.container, Name: k.name, Epoch: epoch})
	return err
}
