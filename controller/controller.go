package controller

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/godwit-project/godwit/api"
	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/api/godwit/v1/godwitv1connect"
	"github.com/godwit-project/godwit/cluster"
	"github.com/godwit-project/godwit/cluster/identity"
	"github.com/godwit-project/godwit/migration"
	"github.com/godwit-project/godwit/unixsocket"
)

// Options of a controller.
type Options struct {
	// Dir holds everything that the controller keeps; made by Init.
	Dir string
	// Name tells controllers apart; empty: the one that Init was given.
	Name string
	// Listen is where agents and remote users connect, ADDRESS:PORT, with mutual TLS.
	Listen string
	// Advertise is the address that others reach Listen at; empty: Listen.
	Advertise string
	// Socket is a unix socket for users on this machine; who may open it may operate.
	Socket string
	// EtcdEndpoints of an external etcd; empty: embedded.
	EtcdEndpoints []string
	Logger        *slog.Logger
}

const (
	identityDir = "identity"
	storeDir    = "store"
	blobDir     = "blobs"
	// OperatorDir, below Dir, holds the credentials of the first operator, made by Init.
	OperatorDir = "operator"
)

// Init makes a new cluster in dir: its CA, the first controller's certificate, and one for the first operator (in
// OperatorDir), with which commands on other machines can call. It refuses a directory that holds a cluster already.
func Init(dir, name string) error {
	authority, err := identity.Init(filepath.Join(dir, identityDir), name)
	if err != nil {
		return err
	}
	for sub, who := range map[string]identity.Identity{
		identityDir: {Role: identity.Controller, Name: name},
		OperatorDir: {Role: identity.Operator, Name: "admin"},
	} {
		c, err := authority.IssueLocal(who, nil)
		if err != nil {
			return fmt.Errorf("certificate of %s: %w", who, err)
		}
		if err := c.Save(filepath.Join(dir, sub)); err != nil {
			return err
		}
	}
	return nil
}

// Run serves until ctx ends. It returns an error if it cannot begin, or must give up.
func Run(ctx context.Context, o Options) (err error) {
	authority, err := identity.LoadAuthority(filepath.Join(o.Dir, identityDir))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("no cluster in %s: run godwit init --data %s first: %w", o.Dir, o.Dir, err)
		}
		return err
	}
	credentials, err := identity.LoadCredentials(filepath.Join(o.Dir, identityDir))
	if err != nil {
		return err
	}
	if o.Name == "" {
		o.Name = authority.Cluster()
	}
	tlsConfig, err := credentials.ServerTLS(false)
	if err != nil {
		return err
	}
	store, err := cluster.Open(ctx, cluster.Options{Dir: filepath.Join(o.Dir, storeDir), Name: o.Name, Endpoints: o.EtcdEndpoints, Logger: o.Logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	b, err := openBlobs(filepath.Join(o.Dir, blobDir), o.Logger)
	if err != nil {
		return err
	}

	g, ctx := errgroup.WithContext(ctx)
	lead, err := store.Lead(ctx, "mms", o.Name)
	if err != nil {
		return err
	}
	g.Go(func() error {
		select {
		case <-lead.Lost():
			return errors.New("another controller has taken the lead; restart to stand by")
		case <-ctx.Done():
			return lead.Resign()
		}
	})

	var background sync.WaitGroup
	defer background.Wait()
	led := &ledger{Store: store, guard: lead.Guard()}
	a := newAgents(led, o.Logger)
	s := newServices(ctx, &background, led, a, b, o.Logger)
	m := &migrations{store: led, agents: a, services: s, logger: o.Logger, work: ctx, wg: &background}
	m.mu.runners = make(map[string]*runner)
	w := &watchman{agents: a, services: s, migrations: m, logger: o.Logger}
	a.connected, a.noticed = w.connected, w.noticed
	j := &joiner{store: store, authority: authority}
	f := &front{services: s, migrations: m, joiner: j}
	measured := newMetrics(f)
	m.ended = measured.observe
	err = m.resume(ctx)
	if err == nil {
		err = s.resume(ctx)
	}
	if err != nil {
		return abandon(g, err)
	}

	mux := http.NewServeMux()
	mux.Handle(godwitv1connect.NewGodwitServiceHandler(f))
	mux.Handle(godwitv1connect.NewAgentServiceHandler(a))
	mux.Handle(godwitv1connect.NewJoinServiceHandler(j))
	mux.Handle("/blobs/", b)
	mux.Handle(api.TransferPath, newTransfers(o.Logger))
	mux.Handle("GET /metrics", measured.handler())
	if o.Listen != "" {
		if err := serveTLS(ctx, g, o, tlsConfig, mux); err != nil {
			return abandon(g, err)
		}
	}
	if o.Socket != "" {
		if err := serveSocket(ctx, g, o, mux); err != nil {
			return abandon(g, err)
		}
	}
	o.Logger.Info("controller serves", "name", o.Name, "listen", o.Listen, "socket", o.Socket, "ca", authority.Fingerprint().String())
	return g.Wait()
}

// abandon ends what has been started when the rest could not be.
func abandon(g *errgroup.Group, cause error) error {
	g.Go(func() error { return cause })
	_ = g.Wait() // what others say is a consequence
	return cause
}

func serveTLS(ctx context.Context, g *errgroup.Group, o Options, conf *tls.Config, mux http.Handler) error {
	l, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return fmt.Errorf("listen for agents: %w", err)
	}
	conf.NextProtos = []string{"h2", "http/1.1"}
	serve(ctx, g, tls.NewListener(l, conf), withPeer(mux), false, o.Logger)
	return nil
}

func serveSocket(ctx context.Context, g *errgroup.Group, o Options, mux http.Handler) error {
	if err := os.MkdirAll(filepath.Dir(o.Socket), 0o755); err != nil {
		return fmt.Errorf("directory of the socket: %w", err)
	}
	l, err := unixsocket.Listen(o.Socket)
	if err != nil {
		return fmt.Errorf("socket for users: %w", err)
	}
	if err := os.Chmod(o.Socket, 0o600); err != nil {
		return errors.Join(fmt.Errorf("protect socket: %w", err), l.Close())
	}
	serve(ctx, g, l, asLocalOperator(mux), true, o.Logger)
	return nil
}

// serve answers HTTP/1.1 and HTTP/2 on l until ctx ends.
func serve(ctx context.Context, g *errgroup.Group, l net.Listener, h http.Handler, plain bool, logger *slog.Logger) {
	const patience = 2 * time.Second
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(plain)
	srv := &http.Server{
		Handler: h, Protocols: protocols, ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:    slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	g.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve %s: %w", l.Addr(), err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			return srv.Close()
		}
		return nil
	})
}

// watchman passes on what agents tell unasked.
type watchman struct {
	agents     *agents
	services   *services
	migrations *migrations
	logger     *slog.Logger
}

// connected hands an agent that has just connected what waits for it, and looks whether the services that it should
// run do run.
func (w *watchman) connected(name string) {
	w.migrations.each(func(r *runner) {
		_ = r.post(r.m.work, message{agent: name})
	})
	w.services.look(name)
}

// noticed feeds a loss to the migration that it concerns. Without one, a dead virtual server is started again.
func (w *watchman) noticed(agent string, n *pb.Notice) {
	w.logger.Warn("agent reports", "agent", agent, "service", n.GetService(), "epoch", n.GetEpoch(), "what", n.GetParticipant(), "reason", n.GetReason())
	found := false
	w.migrations.each(func(r *runner) {
		if r.service() != n.GetService() {
			return
		}
		found = true
		_ = r.post(r.m.work, message{event: migration.Lost{
			At: time.Now(), Epoch: n.GetEpoch(), Participant: migration.Participant(n.GetParticipant()), Role: migration.Role(n.GetRole()), Reason: n.GetReason(),
		}})
	})
	if !found {
		w.services.look(agent)
	}
}
