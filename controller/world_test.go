package controller

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/api/godwit/v1/godwitv1connect"
	"github.com/godwit-project/godwit/cluster"
	"github.com/godwit-project/godwit/cluster/identity"
	"github.com/godwit-project/godwit/migration"
)

// soon bounds every wait of these tests: it is reached only when a test fails.
const soon = 20 * time.Second

// world is one store, the controller that has it at the moment, and agents that outlive controllers.
type world struct {
	t      *testing.T
	dir    string
	logger *slog.Logger
	store  *cluster.Store
	*life
	agents []*fakeAgent
}

// life is one controller's: the wiring of Run, behind a server that believes what callers say of themselves.
type life struct {
	cancel     context.CancelFunc
	background *sync.WaitGroup
	server     *httptest.Server
	under      *requests
	sessions   *agents
	services   *services
	migrations *migrations
	blobs      *blobs
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	var err error
	if w.store, err = cluster.Open(t.Context(), cluster.Options{Dir: filepath.Join(w.dir, "store"), Logger: w.logger}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.store.Close(); err != nil {
			t.Error(err)
		}
	})
	w.live()
	t.Cleanup(w.kill)
	return w
}

// live starts a controller on the store and connects the agents.
func (w *world) live() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	lead, err := w.store.Lead(ctx, "mms", "test")
	if err != nil {
		w.t.Fatal(err)
	}
	background := new(sync.WaitGroup)
	led := &ledger{Store: w.store, guard: lead.Guard()}
	a := newAgents(led, w.logger)
	b, err := openBlobs(w.t.TempDir(), w.logger)
	if err != nil {
		w.t.Fatal(err)
	}
	s := newServices(ctx, background, led, a, b, w.logger)
	m := &migrations{store: led, agents: a, services: s, logger: w.logger, work: ctx, wg: background}
	m.mu.runners = make(map[string]*runner)
	watch := &watchman{agents: a, services: s, migrations: m, logger: w.logger}
	a.connected, a.noticed = watch.connected, watch.noticed
	if err := errors.Join(m.resume(ctx), s.resume(ctx)); err != nil {
		w.t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(godwitv1connect.NewGodwitServiceHandler(&front{services: s, migrations: m, joiner: &joiner{store: w.store, authority: nil}}))
	mux.Handle(godwitv1connect.NewAgentServiceHandler(a))
	mux.Handle("/blobs/", b)
	under := new(requests)
	server := httptest.NewUnstartedServer(under.counted(asToldByHeader(mux)))
	server.Config.Protocols = plainHTTP2()
	server.Start()
	w.life = &life{cancel: cancel, background: background, server: server, under: under, sessions: a, services: s, migrations: m, blobs: b}
	for _, agent := range w.agents {
		w.connect(agent)
	}
}

// kill ends the controller as a crash would: nothing more is written, agents lose their sessions.
func (w *world) kill() {
	if w.life == nil {
		return
	}
	w.cancel()
	w.server.CloseClientConnections()
	w.server.Close()
	w.under.end()
	w.background.Wait()
	w.life = nil
	for _, a := range w.agents {
		a.disconnect() // they notice at their own pace; the test needs to know
	}
}

// atRest waits until nobody works on making the service what the store says.
func (w *world) atRest(service string) {
	w.t.Helper()
	w.until("the turn to be over", func() bool {
		w.services.turns.mu.Lock()
		defer w.services.turns.mu.Unlock()
		_, busy := w.services.turns.busy[service]
		return !busy
	})
}

// depose has another controller lead; the one of this life does not know that yet.
func (w *world) depose() {
	w.t.Helper()
	if _, err := w.store.Lead(w.ctx(), "mms", "test"); err != nil {
		w.t.Fatal(err)
	}
}

// requests are those that a server is at. Its Close does not wait for those that came by HTTP/2 without TLS.
type requests struct {
	mu    sync.RWMutex // held for reading by each
	ended bool
}

func (r *requests) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		r.mu.RLock()
		defer r.mu.RUnlock()
		if !r.ended {
			next.ServeHTTP(w, request)
		}
	})
}

// end waits for those under way; later ones are not answered.
func (r *requests) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
}

func plainHTTP2() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	return p
}

const callerHeader = "X-Caller" // role/kind/site/name; without it, a caller without certificate

func asToldByHeader(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var c caller
		if p := strings.Split(r.Header.Get(callerHeader), "/"); len(p) == 4 {
			c = caller{known: true, Identity: identity.Identity{Role: identity.Role(p[0]), Kind: p[1], Site: p[2], Name: p[3]}}
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, c)))
	})
}

type withCaller struct {
	who  string
	next http.RoundTripper
}

func (c withCaller) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if c.who != "" {
		r.Header.Set(callerHeader, c.who)
	}
	return c.next.RoundTrip(r)
}

// client calls as somebody. A transport of its own, so that nothing is shared between two lives of a controller.
func client(t *testing.T, who string) *http.Client {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: p}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: withCaller{who: who, next: transport}}
}

const (
	asOperator = "operator///ann"
	asViewer   = "viewer///val"
)

func (w *world) as(who string) godwitv1connect.GodwitServiceClient {
	return godwitv1connect.NewGodwitServiceClient(client(w.t, who), w.server.URL)
}

func (w *world) ctx() context.Context {
	ctx, cancel := context.WithTimeout(w.t.Context(), soon)
	w.t.Cleanup(cancel)
	return ctx
}

const mib = 1 << 20

func goodFacts() *pb.HostFacts {
	return &pb.HostFacts{MachineTypes: []string{"pc-q35-7.2"}, CpuModels: []string{"qemu64"}, MemoryTotal: 4096 * mib, MemoryFree: 2048 * mib, DiskFree: 10240 * mib}
}

// site adds a host and an edge to a site, both connected: host-SITE and edge-SITE.
func (w *world) site(name string) (host, edge *fakeAgent) {
	w.t.Helper()
	return w.agent("host", name, "host-"+name), w.agent("edge", name, "edge-"+name)
}

func (w *world) agent(kind, site, name string) *fakeAgent {
	w.t.Helper()
	a := newFakeAgent(w.t, kind, site, name)
	w.agents = append(w.agents, a)
	w.connect(a)
	return a
}

// connect opens the agent's session and waits until the controller knows of it.
func (w *world) connect(a *fakeAgent) {
	w.t.Helper()
	a.connect(w.server.URL)
	w.until(a.name+" is connected", func() bool {
		w.sessions.mu.Lock()
		defer w.sessions.mu.Unlock()
		return w.sessions.mu.sessions[a.name] != nil
	})
}

// disconnect ends the agent's session and waits until the controller has noticed.
func (w *world) disconnect(a *fakeAgent) {
	w.t.Helper()
	a.disconnect()
	w.until(a.name+" is disconnected", func() bool {
		w.sessions.mu.Lock()
		defer w.sessions.mu.Unlock()
		return w.sessions.mu.sessions[a.name] == nil
	})
}

// until polls, for what tells nobody when it becomes true.
func (w *world) until(what string, reached func() bool) {
	w.t.Helper()
	for end := time.Now().Add(soon); !reached(); {
		if time.Now().After(end) {
			w.t.Fatalf("not reached: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func specOf(name, site string) *pb.ServiceSpec {
	return &pb.ServiceSpec{Name: name, Site: site, Server: &pb.ServerSpec{Memory: 64 * mib}, Volumes: []*pb.VolumeSpec{{Name: "root", Size: 128 * mib}}}
}

// applied applies a service and returns what came of that.
func (w *world) applied(spec *pb.ServiceSpec) (outcome string) {
	w.t.Helper()
	res, err := w.as(asOperator).Apply(w.ctx(), connect.NewRequest(&pb.ApplyRequest{Service: spec}))
	if err != nil {
		w.t.Fatal(err)
	}
	return res.Msg.GetOutcome()
}

// running applies a service and waits until it runs.
func (w *world) running(spec *pb.ServiceSpec) {
	w.t.Helper()
	w.applied(spec)
	w.inPhase(spec.GetName(), serviceRunning)
}

func (w *world) inPhase(name, phase string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), soon)
	defer cancel()
	for range w.store.Watch(ctx, servicePrefix+name, 0) {
		var r serviceRecord
		if _, err := load(ctx, w.store, servicePrefix+name, &r); err == nil && r.Phase == phase {
			return
		}
	}
	w.t.Fatalf("service %s is not %s", name, phase)
}

func (w *world) migrate(req *pb.MigrateRequest) *pb.Migration {
	w.t.Helper()
	res, err := w.as(asOperator).Migrate(w.ctx(), connect.NewRequest(req))
	if err != nil {
		w.t.Fatal(err)
	}
	return res.Msg.GetMigration()
}

// follow watches a migration until it is as wanted, and returns it.
func (w *world) follow(name, what string, wanted func(*pb.Migration) bool) *pb.Migration {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), soon)
	defer cancel()
	stream, err := w.as(asViewer).WatchMigration(ctx, connect.NewRequest(&pb.WatchMigrationRequest{Name: name}))
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	var last *pb.Migration
	for stream.Receive() {
		if last = stream.Msg().GetMigration(); wanted(last) {
			return last
		}
	}
	w.t.Fatalf("migration %s is not %s: %v; last seen: %s, %s", name, what, stream.Err(), last.GetPhase(), last.GetReason())
	return nil
}

func (w *world) ended(name string, want migration.Phase) *pb.Migration {
	w.t.Helper()
	over := func(m *pb.Migration) bool {
		return m.GetPhase() == string(migration.Completed) || m.GetPhase() == string(migration.Aborted)
	}
	m := w.follow(name, "over", over)
	if m.GetPhase() != string(want) {
		w.t.Fatalf("migration %s is %s (%s), want %s", name, m.GetPhase(), m.GetReason(), want)
	}
	return m
}

func (w *world) ownedBy(service, host string) cluster.Owner {
	w.t.Helper()
	o, _, err := w.store.Owner(w.t.Context(), service)
	if err != nil {
		w.t.Fatal(err)
	}
	if o.Host != host {
		w.t.Fatalf("service %s is at host %s (epoch %d), want %s", service, o.Host, o.Epoch, host)
	}
	return o
}

// refused checks the code of an error and what its text must contain.
func refused(t *testing.T, err error, code connect.Code, texts ...string) {
	t.Helper()
	if err == nil || connect.CodeOf(err) != code {
		t.Fatalf("error is %v, want code %s", err, code)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not say %q", err, text)
		}
	}
}

// moving is a world in which service shop moves from site a to b, and its source waits at the gate before it converges.
func moving(t *testing.T) (w *world, migration string, converge *gate) {
	t.Helper()
	w = newWorld(t)
	hostA, _ := w.site("a")
	w.site("b")
	w.running(specOf("shop", "a"))
	converge = hostA.stopAt("server/source/converge")
	migration = w.migrate(&pb.MigrateRequest{Service: "shop", ToSite: "b"}).GetName()
	converge.wait(t)
	return w, migration, converge
}
