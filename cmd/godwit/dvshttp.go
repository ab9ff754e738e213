package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/web"
)

// httpHeaderTime bounds how long a client of the adapter may take to say what it wants.
const httpHeaderTime = 10 * time.Second

func (a *app) dvsHTTPCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "http",
		Short: "Let an HTTP service and its clients talk through an endpoint, unchanged",
		Long: `Let an HTTP service and its clients, neither of which knows of the DVS, talk through an
endpoint: serve stands beside the service, connect beside its clients. When the
endpoint moves, requests in work are finished first; later ones are held, and
delivered once at the new place.`,
		Example: `  godwit dvs http serve --container shop --endpoint web --to 127.0.0.1:8080
  godwit dvs http connect --container shop --endpoint web --listen 127.0.0.1:9090
  curl http://127.0.0.1:9090/`,
	}
	return group(cmd, a.dvsHTTPServeCommand(), a.dvsHTTPConnectCommand())
}

// endpointFlags name an endpoint.
type endpointFlags struct{ container, endpoint string }

func (f *endpointFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.container, "container", "", "the container: who may talk to whom")
	cmd.Flags().StringVar(&f.endpoint, "endpoint", "", "the name of the endpoint")
}

func (f *endpointFlags) check() error {
	if f.container == "" || f.endpoint == "" {
		return usagef("want the container and the endpoint: --container CONTAINER --endpoint NAME")
	}
	return nil
}

func (a *app) dvsHTTPServeCommand() *cobra.Command {
	var (
		where   endpointFlags
		service web.Service
		standby bool
		logs    logFlags
	)
	cmd := &cobra.Command{
		Use:   "serve --container CONTAINER --endpoint NAME --to HOST:PORT",
		Short: "Pass what an endpoint receives on to an HTTP service",
		Long: `Bind an endpoint at the node at --socket and pass what it receives on to the HTTP
service at --to, until interrupted.

With --standby it waits until the endpoint moves here. The endpoint can be moved
between nodes where the service runs on each, over state that they share; godwit
does not carry the service's own memory along. When the endpoint has moved away, it
waits for it to come back.`,
		Example: `  godwit dvs http serve --container shop --endpoint web --to 127.0.0.1:8080
  godwit dvs http serve --container shop --endpoint web --to 127.0.0.1:8080 --standby --socket /tmp/b.sock
  godwit dvs migrate shop web --to b`,
		Args: arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := where.check(); err != nil {
				return err
			}
			if _, _, err := net.SplitHostPort(service.Address); err != nil {
				return usagef("bad --to %q: want the service's HOST:PORT", service.Address)
			}
			var err error
			if service.Log, err = logs.logger(a.err); err != nil {
				return err
			}
			ctx := cmd.Context()
			for {
				err := a.serveHTTP(ctx, where, service, standby)
				if ctx.Err() != nil {
					return nil
				}
				if !errors.Is(err, dvs.ErrMoved) {
					return err
				}
				standby = true
			}
		},
	}
	where.add(cmd)
	cmd.Flags().StringVar(&service.Address, "to", "", "HOST:PORT of the HTTP service")
	cmd.Flags().BoolVar(&standby, "standby", false, "wait until the endpoint moves here")
	logs.add(cmd.Flags())
	return cmd
}

// serveHTTP serves an endpoint until it moves away, or ctx ends.
func (a *app) serveHTTP(ctx context.Context, where endpointFlags, service web.Service, standby bool) error {
	session, err := dvs.Connect(ctx, a.dvsSocketPath(), dvs.Options{Container: where.container, Program: "godwit dvs http serve"})
	if err != nil {
		return err
	}
	defer session.Close()
	e, err := session.Bind(ctx, where.endpoint, dvs.BindOptions{
		Snapshot: func() ([]byte, error) { return nil, nil }, // the service keeps its state elsewhere
		Restore:  func([]byte) error { return nil },
		Standby:  standby,
	})
	if err != nil {
		return err
	}
	a.sayf("%s/%s is served by http://%s\n", where.container, where.endpoint, service.Address)
	return service.Serve(ctx, e)
}

func (a *app) dvsHTTPConnectCommand() *cobra.Command {
	var (
		where   endpointFlags
		listen  string
		timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:   "connect --container CONTAINER --endpoint NAME --listen HOST:PORT",
		Short: "Listen for HTTP clients, and pass their requests on to an endpoint",
		Long: `Listen at --listen for HTTP clients of this machine, and pass their requests on to an
endpoint, wherever it is, until interrupted. While it moves they are held. A
request whose outcome nobody knows, because the other end died, is answered with
502; one that certainly was not begun with 503: it can be repeated.`,
		Example: `  godwit dvs http connect --container shop --endpoint web --listen 127.0.0.1:9090
  curl http://127.0.0.1:9090/`,
		Args: arguments(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := where.check(); err != nil {
				return err
			}
			if _, _, err := net.SplitHostPort(listen); err != nil {
				return usagef("bad --listen %q: want HOST:PORT", listen)
			}
			return a.connectHTTP(cmd.Context(), where, listen, timeout)
		},
	}
	where.add(cmd)
	cmd.Flags().StringVar(&listen, "listen", "", "HOST:PORT for the HTTP clients")
	cmd.Flags().DurationVar(&timeout, "timeout", web.DefaultTimeout, "how long a request may take, moves included")
	return cmd
}

func (a *app) connectHTTP(ctx context.Context, where endpointFlags, listen string, timeout time.Duration) error {
	session, err := dvs.Connect(ctx, a.dvsSocketPath(), dvs.Options{Container: where.container, Program: "godwit dvs http connect"})
	if err != nil {
		return err
	}
	defer session.Close()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return fmt.Errorf("listen for HTTP clients: %w", err)
	}
	client := &web.Client{Session: session, Endpoint: where.endpoint, Timeout: timeout}
	server := &http.Server{Handler: client, ReadHeaderTimeout: httpHeaderTime}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	a.sayf("http://%s is %s/%s\n", l.Addr(), where.container, where.endpoint)
	if err := server.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}
