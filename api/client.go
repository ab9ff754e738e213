package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"

	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/api/godwit/v1/godwitv1connect"
)

const (
	dialTimeout = 10 * time.Second
	// A connection on which nothing has come for pingAfter is asked whether it lives, and given up pingTimeout later.
	pingAfter   = 10 * time.Second
	pingTimeout = 5 * time.Second
)

// Client talks to one controller. Its methods may be used at once by several goroutines; the errors that they return are
// *Error, or wrap the context's.
type Client struct {
	server string
	// socket is the path of the unix socket; empty over TLS.
	socket  string
	baseURL string
	http    *http.Client
	calls   godwitv1connect.GodwitServiceClient
}

// Dial makes a client of the controller at server: unix:///path (plain HTTP/2; the socket's permissions decide who may),
// or https://HOST:PORT or HOST:PORT, where both ends show certificates and tlsConfig must hold ours. Nothing is connected
// before the first call.
func Dial(server string, tlsConfig *tls.Config) (*Client, error) {
	c := &Client{server: server}
	transport := &http.Transport{
		Protocols: new(http.Protocols),
		HTTP2:     &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
	dialer := &net.Dialer{Timeout: dialTimeout}
	path, isSocket := socketPath(server)
	switch {
	case isSocket && path == "":
		return nil, &Error{Message: fmt.Sprintf("server %q names no socket", server), Hint: "write unix:///path/to/socket", Code: connect.CodeInvalidArgument}
	case isSocket:
		c.socket, c.baseURL = path, "http://controller"
		transport.Protocols.SetUnencryptedHTTP2(true)
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		}
	default:
		address, err := httpsAddress(server)
		if err != nil {
			return nil, err
		}
		if tlsConfig == nil {
			return nil, &Error{
				Message: fmt.Sprintf("server %q needs an identity", server), Code: connect.CodeUnauthenticated,
				Hint: "name the directory that 'godwit join' or 'godwit init' filled with --identity",
			}
		}
		c.baseURL = "https://" + address
		transport.Protocols.SetHTTP2(true)
		transport.TLSClientConfig = tlsConfig.Clone()
		transport.DialContext = dialer.DialContext
	}
	c.http = &http.Client{Transport: transport}
	c.calls = godwitv1connect.NewGodwitServiceClient(c.http, c.baseURL)
	return c, nil
}

// Server returns the server's name as it was given.
func (c *Client) Server() string { return c.server }

// HTTP returns what generated clients of other services need to use the same connections.
func (c *Client) HTTP() (client *http.Client, baseURL string) { return c.http, c.baseURL }

// Close closes the connections that no call uses.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Apply asks for a service whose files have been replaced by blob names (UploadFiles).
func (c *Client) Apply(ctx context.Context, spec *godwitv1.ServiceSpec) (*godwitv1.ApplyResponse, error) {
	answer, err := c.calls.Apply(ctx, connect.NewRequest(&godwitv1.ApplyRequest{Service: spec}))
	if err != nil {
		return nil, c.explain(ctx, "apply "+spec.GetName(), err)
	}
	return answer.Msg, nil
}

// Get returns the objects of a kind (site, host, edge, service, volume, migration), or the one that is named.
func (c *Client) Get(ctx context.Context, kind, name string) ([]*godwitv1.Object, error) {
	answer, err := c.calls.Get(ctx, connect.NewRequest(&godwitv1.GetRequest{Kind: kind, Name: name}))
	if err != nil {
		return nil, c.explain(ctx, strings.TrimSpace("get "+kind+" "+name), err)
	}
	return answer.Msg.GetObjects(), nil
}

// Service returns the named service.
func (c *Client) Service(ctx context.Context, name string) (*godwitv1.Service, error) {
	objects, err := c.Get(ctx, "service", name)
	if err != nil {
		return nil, err
	}
	for _, object := range objects {
		if service := object.GetService(); service.GetSpec().GetName() == name {
			return service, nil
		}
	}
	return nil, &Error{Op: "get service " + name, Message: "not found", Code: connect.CodeNotFound, Hint: "'godwit get services' lists them"}
}

// Delete removes an object and returns when it is gone. Volumes that stand alone, and that a service used, stay.
func (c *Client) Delete(ctx context.Context, kind, name string) error {
	_, err := c.calls.Delete(ctx, connect.NewRequest(&godwitv1.DeleteRequest{Kind: kind, Name: name}))
	return c.explain(ctx, "delete "+kind+" "+name, err)
}

// DeleteWithVolumes removes a service with all volumes that it uses.
func (c *Client) DeleteWithVolumes(ctx context.Context, service string) error {
	_, err := c.calls.Delete(ctx, connect.NewRequest(&godwitv1.DeleteRequest{Kind: "service", Name: service, Volumes: true}))
	return c.explain(ctx, "delete service "+service, err)
}

// CreateVolume makes a volume that stands alone, and returns when that is decided; the outcome is created or unchanged.
func (c *Client) CreateVolume(ctx context.Context, request *godwitv1.CreateVolumeRequest) (outcome string, err error) {
	answer, err := c.calls.CreateVolume(ctx, connect.NewRequest(request))
	if err != nil {
		return "", c.explain(ctx, "create volume "+request.GetName(), err)
	}
	return answer.Msg.GetOutcome(), nil
}

// Volume returns the volume that stands alone of that name.
func (c *Client) Volume(ctx context.Context, name string) (*godwitv1.Volume, error) {
	objects, err := c.Get(ctx, "volume", name)
	if err != nil {
		return nil, err
	}
	for _, object := range objects {
		if volume := object.GetVolume(); volume.GetName() == name && volume.GetRole() != "replica" {
			return volume, nil
		}
	}
	return nil, &Error{Op: "get volume " + name, Message: "not found", Code: connect.CodeNotFound, Hint: "'godwit get volumes' lists them"}
}

// Migrate starts a migration, or only checks it (DryRun), and returns at once.
func (c *Client) Migrate(ctx context.Context, request *godwitv1.MigrateRequest) (*godwitv1.Migration, error) {
	answer, err := c.calls.Migrate(ctx, connect.NewRequest(request))
	if err != nil {
		return nil, c.explain(ctx, "migrate "+request.GetService(), err)
	}
	return answer.Msg.GetMigration(), nil
}

// Failover makes the replica of a service the service, and returns when that is decided.
func (c *Client) Failover(ctx context.Context, request *godwitv1.FailoverRequest) (*godwitv1.Failover, error) {
	answer, err := c.calls.Failover(ctx, connect.NewRequest(request))
	if err != nil {
		return nil, c.explain(ctx, "failover "+request.GetService(), err)
	}
	return answer.Msg.GetFailover(), nil
}

// FailoverThrough is Failover across deaths of the controller: as long as nothing answers, it is asked again, by the same request, which
// must have a name. Seen of how is not called.
func (c *Client) FailoverThrough(ctx context.Context, request *godwitv1.FailoverRequest, how Follow) (*godwitv1.Failover, error) {
	away := absence{how: how}
	for {
		f, err := c.Failover(ctx, request)
		if ctx.Err() != nil {
			return f, err
		}
		if !mayPass(err) {
			away.over()
			return f, err
		}
		if err := away.wait(ctx, err); err != nil {
			return nil, err
		}
	}
}

// ChangeVolume restarts a service with a larger volume, or one of another content, and returns when that is decided.
func (c *Client) ChangeVolume(ctx context.Context, request *godwitv1.ChangeVolumeRequest) (unchanged bool, err error) {
	answer, err := c.calls.ChangeVolume(ctx, connect.NewRequest(request))
	if err != nil {
		return false, c.explain(ctx, "change volume "+request.GetService()+"/"+request.GetVolume(), err)
	}
	return answer.Msg.GetUnchanged(), nil
}

// WatchMigration calls seen with the migration as it is now and at each change. It returns nil when the stream ended in
// good order, which it does after the migration has completed or been aborted, and otherwise seen's error or an *Error.
func (c *Client) WatchMigration(ctx context.Context, name string, seen func(*godwitv1.Migration) error) (err error) {
	op := "watch migration " + name
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.calls.WatchMigration(ctx, connect.NewRequest(&godwitv1.WatchMigrationRequest{Name: name}))
	if err != nil {
		return c.explain(ctx, op, err)
	}
	defer func() {
		if closing := stream.Close(); err == nil && closing != nil && !errors.Is(closing, context.Canceled) {
			err = c.explain(ctx, op, closing)
		}
	}()
	for stream.Receive() {
		if err := seen(stream.Msg().GetMigration()); err != nil {
			return err
		}
	}
	return c.explain(ctx, op, stream.Err())
}

// ContinueMigration lets a migration that holds go on.
func (c *Client) ContinueMigration(ctx context.Context, name string) (*godwitv1.Migration, error) {
	answer, err := c.calls.ContinueMigration(ctx, connect.NewRequest(&godwitv1.ContinueMigrationRequest{Name: name}))
	if err != nil {
		return nil, c.explain(ctx, "continue migration "+name, err)
	}
	return answer.Msg.GetMigration(), nil
}

// AbortMigration puts everything back, which is possible until Commit.
func (c *Client) AbortMigration(ctx context.Context, name, reason string) (*godwitv1.Migration, error) {
	answer, err := c.calls.AbortMigration(ctx, connect.NewRequest(&godwitv1.AbortMigrationRequest{Name: name, Reason: reason}))
	if err != nil {
		return nil, c.explain(ctx, "abort migration "+name, err)
	}
	return answer.Msg.GetMigration(), nil
}

// CreateToken makes a one-time token with which a machine or an operator joins.
func (c *Client) CreateToken(ctx context.Context, request *godwitv1.CreateTokenRequest) (string, error) {
	answer, err := c.calls.CreateToken(ctx, connect.NewRequest(request))
	if err != nil {
		return "", c.explain(ctx, "create token", err)
	}
	return answer.Msg.GetToken(), nil
}

// socketPath returns the path when server is that of a unix socket.
func socketPath(server string) (string, bool) {
	if rest, ok := strings.CutPrefix(server, "unix://"); ok {
		return rest, true
	}
	if rest, ok := strings.CutPrefix(server, "unix:"); ok {
		return rest, true
	}
	return server, strings.HasPrefix(server, "/")
}

// httpsAddress returns HOST:PORT of a server that is not a socket.
func httpsAddress(server string) (string, error) {
	address := strings.TrimSuffix(strings.TrimPrefix(server, "https://"), "/")
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || port == "" || strings.Contains(address, "/") {
		return "", &Error{
			Message: fmt.Sprintf("bad server %q", server), Code: connect.CodeInvalidArgument,
			Hint: "write unix:///path/to/socket or https://HOST:PORT",
		}
	}
	return address, nil
}
