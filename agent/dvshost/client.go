package dvshost

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// client speaks to a Handler.
type client struct {
	http *http.Client
}

func newClient(dial func(ctx context.Context) (net.Conn, error)) client {
	return client{&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
	}}}
}

// ask sends a body and decodes the answer, or takes it as it is if out is *[]byte.
func (c client) ask(ctx context.Context, method, path string, query url.Values, body []byte, out any) error {
	return c.do(ctx, method, path, query, body, func(r io.Reader) error {
		b, err := io.ReadAll(r)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if raw, ok := out.(*[]byte); ok {
			*raw = b
			return nil
		}
		if err := json.Unmarshal(b, out); err != nil {
			return fmt.Errorf("%s: the answer is not understood: %w", path, err)
		}
		return nil
	})
}

// do sends a body, and gives the answer to take as it comes.
func (c client) do(ctx context.Context, method, path string, query url.Values, body []byte, take func(io.Reader) error) error {
	u := url.URL{Scheme: "http", Host: "node", Path: path, RawQuery: query.Encode()}
	r, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	a, err := c.http.Do(r)
	if err != nil {
		return reason(err)
	}
	defer a.Body.Close()
	if a.StatusCode == http.StatusOK {
		return take(a.Body)
	}
	var e errorInfo
	if json.NewDecoder(io.LimitReader(a.Body, maxJSON)).Decode(&e) != nil || e.Error == "" {
		e.Error = a.Status
	}
	return &answerError{status: a.StatusCode, text: e.Error}
}

// reason takes off an error what the request was: its address means nothing here.
func reason(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// Client asks a node what a person may ask, over its socket for people.
type Client struct{ client }

// NewClient returns a client for the node whose programs connect at that socket. It connects when it is asked something.
func NewClient(socket string) *Client {
	return &Client{newClient(func(ctx context.Context) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", AdminSocket(socket))
		if err != nil {
			return nil, fmt.Errorf("no node answers at %s: is godwit dvs node, or godwit agent --dvs, running with this --socket? %w", socket, err)
		}
		return c, nil
	})}
}

// AdminSocket is where people reach a node, beside the socket of programs.
func AdminSocket(socket string) string { return socket + ".admin" }

// get asks for something.
func get[T any](ctx context.Context, c client, path string) (out T, err error) {
	err = c.ask(ctx, http.MethodGet, path, nil, nil, &out)
	return out, err
}

// post asks for something to be done.
func post[T any](ctx context.Context, c client, path string, in any) (out T, err error) {
	b, err := json.Marshal(in)
	if err == nil {
		err = c.ask(ctx, http.MethodPost, path, nil, b, &out)
	}
	return out, err
}

// List returns the node's processes.
func (c *Client) List(ctx context.Context) ([]ProcessInfo, error) {
	return get[[]ProcessInfo](ctx, c.client, "/v1/ps")
}

// Endpoints returns the endpoints that the node knows.
func (c *Client) Endpoints(ctx context.Context) ([]EndpointInfo, error) {
	return get[[]EndpointInfo](ctx, c.client, "/v1/endpoints")
}

// Links returns the other nodes.
func (c *Client) Links(ctx context.Context) ([]LinkInfo, error) {
	return get[[]LinkInfo](ctx, c.client, "/v1/links")
}

// Stats returns what the node has counted.
func (c *Client) Stats(ctx context.Context) (StatsInfo, error) {
	return get[StatsInfo](ctx, c.client, "/v1/stats")
}

// Run starts a process. memory and length bound it, in bytes and as a length of time; "" takes the defaults.
func (c *Client) Run(ctx context.Context, container, name string, module []byte, memory, length string) error {
	q := url.Values{"container": {container}, "name": {name}, "memory": {memory}, "time": {length}}
	return c.ask(ctx, http.MethodPost, "/v1/run", q, module, &struct{}{})
}

// RunReplicated starts a process on several nodes, this one among them, that keep one state; mode is passive or active.
func (c *Client) RunReplicated(ctx context.Context, container, name string, module []byte, memory, length, mode string, nodes []string) error {
	q := url.Values{
		"container": {container}, "name": {name}, "memory": {memory}, "time": {length}, "mode": {mode}, "nodes": {strings.Join(nodes, ",")},
	}
	return c.ask(ctx, http.MethodPost, "/v1/run", q, module, &struct{}{})
}

// Call makes a request; timeout is a length of time.
func (c *Client) Call(ctx context.Context, container, name string, payload []byte, timeout string) ([]byte, error) {
	q := url.Values{"container": {container}, "name": {name}, "timeout": {timeout}}
	var reply []byte
	err := c.ask(ctx, http.MethodPost, "/v1/call", q, payload, &reply)
	return reply, err
}

// Move moves a process.
func (c *Client) Move(ctx context.Context, r MoveRequest) (MoveInfo, error) {
	return post[MoveInfo](ctx, c.client, "/v1/migrate", r)
}

// Moves returns the moves from the node that are not over.
func (c *Client) Moves(ctx context.Context) ([]MovingInfo, error) {
	return get[[]MovingInfo](ctx, c.client, "/v1/moves")
}

// Abort ends a move from the node.
func (c *Client) Abort(ctx context.Context, r AbortRequest) (AbortInfo, error) {
	return post[AbortInfo](ctx, c.client, "/v1/abort", r)
}

// Drain moves all processes of the node.
func (c *Client) Drain(ctx context.Context, r DrainRequest) (DrainInfo, error) {
	return post[DrainInfo](ctx, c.client, "/v1/drain", r)
}

// Stop ends a process; its state is lost.
func (c *Client) Stop(ctx context.Context, container, name string) error {
	_, err := post[struct{}](ctx, c.client, "/v1/stop", MoveRequest{Container: container, Name: name})
	return err
}
