package agent

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost"
	"github.com/godwit-project/godwit/cluster/identity"
)

// dvsCluster gives certificates.
type dvsCluster struct {
	t         *testing.T
	authority *identity.Authority
}

func newDVSCluster(t *testing.T) dvsCluster {
	t.Helper()
	authority, err := identity.Init(filepath.Join(t.TempDir(), "ca"), "test")
	if err != nil {
		t.Fatal(err)
	}
	return dvsCluster{t, authority}
}

func (c dvsCluster) issue(who identity.Identity) identity.Credentials {
	c.t.Helper()
	credentials, err := c.authority.IssueLocal(who, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return credentials
}

func hostNamed(name string) identity.Identity {
	return identity.Identity{Role: identity.Agent, Kind: identity.Host, Site: "west", Name: name}
}

// runningDVS is a host's node that runs.
type runningDVS struct {
	*dvsNode
	*dvshost.Client
	end func()
}

// start runs a host's node until the test ends, or end.
func (c dvsCluster) start(name, dir string) runningDVS {
	c.t.Helper()
	socket := filepath.Join(c.t.TempDir(), "dvs.sock")
	who := hostNamed(name)
	d, err := newDVSNode(&DVSOptions{Socket: socket, Listen: "127.0.0.1:0"}, dir, "127.0.0.1:7444", who, c.issue(who), slog.New(slog.NewTextHandler(c.t.Output(), nil)))
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.run(ctx) }()
	r := runningDVS{d, dvshost.NewClient(socket), func() {
		cancel()
		if err := <-ended; err != nil {
			c.t.Error(err)
		}
		ended <- nil
	}}
	c.t.Cleanup(r.end)
	if d.registered(c.t.Context()) == "" {
		c.t.Fatal("the node has no address")
	}
	return r
}

// linked waits until the node reaches one other, at that address.
func (r runningDVS) linked(t *testing.T, name, address string) {
	t.Helper()
	var links []dvshost.LinkInfo
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		var err error
		if links, err = r.Links(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(links) == 1 && links[0].Node == name && links[0].Address == address && links[0].State == "up" {
			return
		}
	}
	t.Fatalf("the links are %+v, want one to %s at %s", links, name, address)
}

func TestNodesOfHostsFindEachOtherByWhatTheControllerSays(t *testing.T) {
	c := newDVSCluster(t)
	dirs := map[string]string{"a": t.TempDir(), "b": t.TempDir()}
	a, b := c.start("a", dirs["a"]), c.start("b", dirs["b"])
	if links, err := a.Links(t.Context()); err != nil || len(links) != 0 {
		t.Fatalf("before anybody said anything there are links: %v, %v", links, err)
	}
	all := map[string]string{"a": a.address, "b": b.address}
	a.told(all)
	b.told(all)
	a.linked(t, "b", b.address)
	b.linked(t, "a", a.address)

	b.end() // and begins again elsewhere: it knows the others, they are told
	b = c.start("b", dirs["b"])
	b.linked(t, "a", a.address)
	a.told(map[string]string{"a": a.address, "b": b.address})
	a.linked(t, "b", b.address)

	a.told(map[string]string{"a": a.address})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if links, err := a.Links(t.Context()); err == nil && len(links) == 0 {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("a host that runs no node any more is still linked: %v, %v", links, err)
		}
	}
	a.told(map[string]string{"b": b.address})
	a.linked(t, "b", b.address)
}

func TestOnlyAHostIsANodeOfTheDVS(t *testing.T) {
	c := newDVSCluster(t)
	a := c.start("a", t.TempDir())
	for _, who := range []identity.Identity{
		{Role: identity.Operator, Name: "b"},
		{Role: identity.Agent, Kind: identity.Edge, Site: "west", Name: "b"},
		hostNamed("x"),
	} {
		t.Run(who.String(), func(t *testing.T) {
			proof, err := proofOf(c.issue(who))
			if err != nil {
				t.Fatal(err)
			}
			// It says that it is b, of which a has heard.
			socket := filepath.Join(t.TempDir(), "dvs.sock")
			ctx, cancel := context.WithCancel(t.Context())
			ready, ended := make(chan string, 1), make(chan error, 1)
			go func() {
				ended <- dvshost.Serve(ctx, dvshost.NodeOptions{
					Name: "b", Socket: socket, Listen: "127.0.0.1:0", Peers: map[string]string{"a": a.address}, Proof: proof, Ready: func(address string) { ready <- address },
				})
			}()
			defer func() {
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}()
			a.told(map[string]string{"b": <-ready})
			links, err := dvshost.NewClient(socket).Links(t.Context())
			if err != nil || len(links) != 1 || links[0].State != "down" && who.Name != "x" { // a host may ask another whether it is there
				t.Errorf("it reaches the host: %+v, %v", links, err)
			}
			for range 2 { // the second time the host has had time to dial
				if links, err = a.Links(t.Context()); err != nil || len(links) != 1 || links[0].State != "down" {
					t.Errorf("the host takes it for b: %+v, %v", links, err)
				}
			}
		})
	}
}

func TestANodeOfTheDVSThatCannotBe(t *testing.T) {
	c := newDVSCluster(t)
	log := slog.New(slog.DiscardHandler)
	edge := identity.Identity{Role: identity.Agent, Kind: identity.Edge, Site: "west", Name: "e"}
	if _, err := newDVSNode(&DVSOptions{}, t.TempDir(), "127.0.0.1:7444", edge, c.issue(edge), log); err == nil || !strings.Contains(err.Error(), "only hosts") {
		t.Errorf("an edge: %v", err)
	}
	who := hostNamed("a")
	if _, err := newDVSNode(&DVSOptions{Listen: "nowhere"}, t.TempDir(), "127.0.0.1:7444", who, c.issue(who), log); err == nil || !strings.Contains(err.Error(), "want HOST:PORT") {
		t.Errorf("a bad address: %v", err)
	}
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, dvsDir), 0o700), os.WriteFile(filepath.Join(dir, dvsDir, "nodes.json"), []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := newDVSNode(&DVSOptions{}, dir, "127.0.0.1:7444", who, c.issue(who), log); err == nil || !strings.Contains(err.Error(), "nodes.json") {
		t.Errorf("a file that is damaged: %v", err)
	}
	var none *dvsNode
	if none.told(map[string]string{"a": "x"}); none.registered(t.Context()) != "" {
		t.Error("no node has an address")
	}
	for address, want := range map[string]string{"0.0.0.0:7": "192.0.2.1:7", "[::]:7": "192.0.2.1:7", "192.0.2.9:7": "192.0.2.9:7"} {
		if got := (&dvsNode{host: "192.0.2.1"}).reached(address); got != want {
			t.Errorf("%s is reached at %s, want %s", address, got, want)
		}
	}
}
