package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster/identity"
	"github.com/godwit-project/godwit/migration"
	"github.com/godwit-project/godwit/wan"
)

// Options of an agent.
type Options struct {
	// Dir holds everything that the agent keeps; made by Join.
	Dir string
	// Address is where other agents reach this one, ADDRESS:PORT; on a host its ADDRESS is also the next hop of routes.
	Address string
	// UplinkAddress, on an edge, is its own address towards the provider: next hop of announcements, end of tunnels.
	UplinkAddress string
	// BGPNeighbors, on an edge, are the provider's routers; none for a customer's edge without routing.
	BGPNeighbors []string
	// ASN is the autonomous system of the edge and of its neighbors (iBGP).
	ASN uint32
	// QEMU is the program that runs virtual servers; empty: qemu-system-x86_64 in the path.
	QEMU string
	// WANLimit, on a host, bounds what is sent to other sites, in bit/s; 0 is no limit.
	WANLimit int64
	// Metrics, on a host, is where operators and viewers get its figures, ADDRESS:PORT, with mutual TLS; none when empty.
	Metrics string
	// DVS, on a host, has it run a node of the DVS; nil: none.
	DVS    *DVSOptions
	Logger *slog.Logger
}

// worker is what differs between a host and an edge. All methods are idempotent.
type worker interface {
	// step carries out one verb of a migration.
	step(ctx context.Context, s *pb.MigrationStep, id migration.StepID, report func(*pb.TaskProgress)) (*pb.StepFigures, error)
	// start makes this agent's part of a service run here, stop removes it.
	start(ctx context.Context, s *pb.StartService) error
	stop(ctx context.Context, s *pb.StopService) error
	// replicate makes, changes or ends this agent's end of a standing replication.
	replicate(ctx context.Context, r *pb.ReplicateService) error
	// volume does what an operator asks of a service's volumes.
	volume(ctx context.Context, t *pb.VolumeTask, report func(*pb.TaskProgress)) (*pb.VolumeResult, error)
	// place makes a volume that stands alone what it is to be.
	place(ctx context.Context, p *pb.PlaceVolume) error
	// observe says what is true of a service here, or, with "", which volumes stand alone; nil if there is nothing.
	observe(ctx context.Context, service string) *pb.Holding
	// facts says what this machine has.
	facts(ctx context.Context) *pb.HostFacts
	// volatile are the ends of a migration that do not survive this process.
	volatile(id migration.StepID) bool
	close() error
}

// Run serves until ctx ends. It returns an error if it cannot begin.
func Run(ctx context.Context, o Options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("an agent needs root: it makes network devices and runs virtual servers")
	}
	joined, err := loadJoined(o.Dir)
	if err != nil {
		return err
	}
	credentials, err := identity.LoadCredentials(o.Dir)
	if err != nil {
		return err
	}
	who, err := credentials.Identity()
	if err != nil {
		return err
	}
	address, err := netip.ParseAddrPort(o.Address)
	if err != nil {
		return fmt.Errorf("--address %q: want ADDRESS:PORT, where other agents reach this one: %w", o.Address, err)
	}
	peers, err := credentials.ClientTLS(identity.Agent)
	if err != nil {
		return err
	}
	control, err := credentials.ClientTLS(identity.Controller)
	if err != nil {
		return err
	}
	incoming, err := credentials.ServerTLS(true, identity.Agent)
	if err != nil {
		return err
	}
	readers, err := credentials.ServerTLS(true, identity.Operator, identity.Viewer)
	if err != nil {
		return err
	}
	logger := o.Logger.With("agent", who.Name)
	node, err := newDVSNode(o.DVS, o.Dir, o.Address, who, credentials, logger)
	if err != nil {
		return err
	}
	book, err := openBook(filepath.Join(o.Dir, "journal"))
	if err != nil {
		return err
	}

	g, ctx := errgroup.WithContext(ctx)
	link := newController(joined.Controller, control)
	meter, budget := new(wan.Meter), wan.NewBudget(o.WANLimit)
	var w worker
	var accept wan.Accept
	var measured *figures
	notices := make(chan *pb.Notice, 64)
	if who.Kind == identity.Edge {
		w, err = openEdge(ctx, o, logger)
		accept = func(_ context.Context, h wan.Hello, _ tls.ConnectionState) (func(context.Context, *wan.Stream), error) {
			return nil, fmt.Errorf("an edge takes no %s stream", h.Kind)
		}
	} else {
		var h *host
		h, err = openHost(ctx, hostConfig{dir: o.Dir, site: who.Site, qemu: o.QEMU, book: book, link: link, dialer: &wan.Dialer{TLS: peers, Meter: meter, Budget: budget}, meter: meter, notices: notices, logger: logger})
		w = h
		if err == nil {
			accept = h.accept
			measured = &figures{store: h.store, external: h.external}
		}
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()

	listener, err := net.Listen("tcp", address.String())
	if err != nil {
		return fmt.Errorf("listen for other agents: %w", err)
	}
	streams := &wan.Listener{TLS: incoming, Meter: meter, Budget: budget, Accept: accept, Logger: logger}
	g.Go(func() error { return streams.Serve(ctx, listener) })
	if o.Metrics != "" && measured != nil {
		g.Go(func() error { return serveFigures(ctx, o.Metrics, readers, *measured) })
	}

	if node != nil {
		g.Go(func() error { return node.run(ctx) })
	}

	var running sync.WaitGroup
	defer running.Wait()
	t := newTasks(ctx, &running, book, w, logger)
	s := &sessions{link: link, hello: &pb.Hello{Address: o.Address, Underlay: o.UplinkAddress, Dvs: node.registered(ctx)}, dvs: node, book: book, worker: w, tasks: t, notices: notices, logger: logger}
	s.lost = book.undecided(w.volatile)
	g.Go(func() error { return s.run(ctx) })
	logger.Info("agent serves", "kind", who.Kind, "site", who.Site, "address", o.Address, "controller", joined.Controller)
	return g.Wait()
}

func loadJoined(dir string) (joined, error) {
	var j joined
	if err := readJSON(filepath.Join(dir, joinedFile), &j); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return j, fmt.Errorf("%s holds no joined agent: run godwit join --data %s --controller ADDRESS --token TOKEN first: %w", dir, dir, err)
		}
		return j, err
	}
	return j, nil
}
