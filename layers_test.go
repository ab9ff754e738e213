package godwit

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/godwit-project/godwit"

// room is a package's place in the house.
type room struct {
	may string // the rooms that it may import, separated by spaces
	why string // the reason for the line that is drawn
	// tests are rooms that its tests may import besides.
	tests string
	// planned: the room need not be there yet.
	planned bool
}

// rooms holds every package of the module, and whom of ours each may import. A line is changed here first, with its reason: what
// is not in the table is not allowed.
var rooms = map[string]room{
	"": {why: "the root holds no code of the program, only the tests that keep the house in order"},

	// The cores: pure, so that a test can run thousands of schedules through them.
	"migration":  {tests: "simulation", why: "the heart: a state machine without I/O, clock or goroutine; whoever drives it imports it, never the reverse"},
	"protection": {planned: true, why: "like migration: recovery points and failover as a state machine"},

	"simulation": {why: "what simulations of the cores share: schedules, and how one is replayed; for tests alone, and no world of theirs may enter"},

	// The participants: they know neither each other nor who drives them, so that each can be replaced alone.
	"server":                {may: "server/memcheck", why: "what a platform of virtual servers must do"},
	"server/memcheck":       {why: "compares two memories over a connection; it knows no machine"},
	"server/oomscore":       {why: "of use to whoever starts programs"},
	"server/qemu":           {may: "server server/memcheck server/oomscore server/qemu/qmp", why: "one platform; the agent chooses it"},
	"server/qemu/qmp":       {why: "a client for QEMU's protocol; of use to anybody"},
	"server/process":        {tests: "examples", why: "runs WebAssembly processes; it knows neither endpoints nor who hosts them"},
	"server/native":         {may: "server/oomscore", why: "runs any program and moves it as a whole, by CRIU; it knows neither endpoints nor who hosts them"},
	"storage":               {may: "storage/changes storage/disk storage/disk/vfs storage/journal storage/nbd storage/wire unixsocket", tests: "storage/disk/disktest", why: "volumes: the agent gives them their connections"},
	"storage/changes":       {why: "what the other end lacks, cut into epochs: pure, so that it can be simulated"},
	"storage/journal":       {may: "storage/changes", why: "the replica's epochs on disk, over a file system that it declares itself"},
	"storage/nbd":           {why: "an NBD server over an interface that it declares itself"},
	"storage/disk":          {may: "storage/disk/vfs storage/nbd", tests: "storage/disk/crashfs storage/disk/disktest", why: "where a volume's bytes are kept; it knows no volumes"},
	"storage/disk/vfs":      {why: "the little of a file system that volumes need"},
	"storage/disk/crashfs":  {may: "storage/disk/vfs", why: "a file system for tests, of use to whoever keeps files"},
	"storage/disk/disktest": {why: "block devices for tests; it knows nothing of what is kept on them"},
	"storage/wire":          {why: "the replication frames: bytes in, values out"},
	"network":               {may: "network/bgp", why: "tunnel, switch and routes of an edge; the host's half as well"},
	"network/bgp":           {why: "the embedded BGP speaker; it announces what it is told"},
	"dvs":                   {may: "dvs/endpoint dvs/ring dvs/socket dvs/wire", tests: "dvs/node", why: "the client library that other people's programs link: nothing of the cluster in it"},
	"dvs/wire":              {may: "dvs/endpoint", why: "the frames between programs and nodes: bytes in, values out"},
	"dvs/ring":              {may: "dvs/wire", why: "frames through memory that two processes share"},
	"dvs/socket":            {may: "dvs/wire", why: "frames, and what is passed with them, over a unix socket"},
	"dvs/endpoint":          {why: "what a move of an endpoint may do, pure: no I/O, so that it can be simulated"},
	"dvs/node":              {may: "dvs/endpoint dvs/ring dvs/socket dvs/wire", tests: "dvs", why: "a node introduces programs and relays between machines; the agent runs it"},
	"dvs/web":               {may: "dvs", tests: "dvs/node", why: "HTTP in, HTTP out, a session between: it knows no node"},

	"dvs/replica":             {may: "dvs/replica/active dvs/replica/coding dvs/replica/passive dvs/replica/state dvs/replica/watch", tests: "dvs dvs/endpoint dvs/node dvs/replica/replicatest dvs/socket dvs/wire server/process", why: "drives a replica: its machine, its peers, its clock; it knows no endpoint: its host binds that"},
	"dvs/replica/active":      {tests: "dvs/replica/replicatest", may: "dvs/replica/coding dvs/replica/state", why: "active replication, pure: no I/O, so that it can be simulated"},
	"dvs/replica/coding":      {why: "fields of messages: bytes in, values out"},
	"dvs/replica/passive":     {tests: "dvs/replica/replicatest", may: "dvs/replica/coding dvs/replica/state", why: "passive replication, pure: no I/O, so that it can be simulated"},
	"dvs/replica/register":    {may: "dvs/replica/state", why: "the record of a group where there is no controller: bytes of others are asked for by a function"},
	"dvs/replica/replicatest": {may: "dvs/replica/state", why: "what tests of replication share: a machine, and what its clients saw"},
	"dvs/replica/state":       {may: "dvs/replica/coding", why: "what both kinds replicate, as values"},
	"dvs/replica/watch":       {may: "dvs/replica/state", why: "whether a primary is dead, pure"},

	"unixsocket": {why: "listens where a dead program may have left its socket; it knows nothing of what is said there"},

	// What is shared by those who drive them.
	"wan":              {why: "connections between sites: it carries bytes and does not know whose"},
	"wan/delta":        {planned: true, why: "the codec: bytes in, bytes out"},
	"cluster":          {may: "cluster/identity", why: "objects and epochs on etcd: what is true, not what to do about it"},
	"cluster/identity": {why: "the CA, certificates, tokens: whoever opens a port needs it, with or without etcd"},

	// The API: the only thing that is agreed between programs.
	"api":                           {may: "api/godwit/v1 api/godwit/v1/godwitv1connect", why: "conversions and the client, for programs outside as well"},
	"api/godwit/v1":                 {why: "generated"},
	"api/godwit/v1/godwitv1connect": {may: "api/godwit/v1", why: "generated"},

	// Those who drive.
	"agent": {
		may: "server server/memcheck server/qemu agent/dvshost agent/dvshost/balance agent/dvshost/policy storage network wan cluster/identity api api/godwit/v1 api/godwit/v1/godwitv1connect migration",
		why: "wires the participants to the controllers; of migration it takes the names of steps; the store is the controllers' alone",
	},
	"controller": {
		may: "migration protection cluster cluster/identity controller/failover unixsocket api api/godwit/v1 api/godwit/v1/godwitv1connect",
		why: "runs the engine; it reaches participants by way of agents only, so that they may be anywhere",
	},
	"controller/failover": {tests: "simulation", why: "what is decided of a failover, pure: simulated with crashes at every step"},

	"agent/dvshost/balance": {why: "which process leaves a node that has too much to do: pure, so that it can be simulated"},
	"agent/dvshost/policy":  {may: "dvs/node dvs/wire", why: "who may do what in which container: a file in, answers out"},
	"agent/dvshost": {
		may: "agent/dvshost/balance agent/dvshost/policy dvs dvs/endpoint dvs/node dvs/replica dvs/replica/coding dvs/replica/register dvs/replica/state dvs/wire migration server/native server/process unixsocket", tests: "examples",
		why: "hosts WebAssembly processes on a node of the DVS, also without an agent around it: it runs the engine for moves between nodes without a controller, and knows neither controllers nor the store",
	},

	// The outside: what a user could have written.
	"lab":           {may: "api api/godwit/v1 api/godwit/v1/godwitv1connect lab/link lab/namespace lab/probe", why: "uses the binary and the API, never the inside: it shows what a user gets"},
	"lab/link":      {may: "lab/namespace", why: "a slow link, emulated"},
	"lab/namespace": {why: "network namespaces of a test"},
	"lab/probe":     {why: "a client that measures gaps: it must see what a stranger sees"},
	"lab/guest":     {why: "the customer's machine: it knows nothing of Godwit"},

	"lab/acceptance": {tests: "lab/probe api api/godwit/v1 storage/disk/disktest", why: "drives the built binary, as a user would"},

	"lab/guest/image":        {why: "builds the guest's RAM disk"},
	"lab/guest/cmd/mkinitrd": {may: "lab/guest/image", why: "its command line"},

	"demo": {
		may: "agent/dvshost api api/godwit/v1 dvs lab lab/probe", tests: "examples",
		why: "a scenario as a user would play it; of the DVS a user has its library, and the client of a node that runs alone",
	},
	"bench/document": {why: "what benches of different modules share"},
	"bench":          {may: "api api/godwit/v1 bench/document lab lab/probe storage storage/nbd", why: "measures from outside; storage also by itself, as its peers are"},
	"examples":       {why: "builds the examples, for tests; they are customers' programs, and know nothing of Godwit but the ABI"},

	"examples/tally": {may: "dvs", why: "a customer's program: of Godwit it has the library"},

	"cmd/godwit": {
		may:   "agent agent/dvshost agent/dvshost/balance agent/dvshost/policy api api/godwit/v1 cluster cluster/identity controller demo dvs dvs/web lab lab/probe server/native storage/disk storage/disk/vfs storage/nbd unixsocket wan",
		why:   "parses, constructs, prints: no logic; of the participants it serves a file alone, for other people's tools, and runs the adapter for HTTP, a program of the DVS like any other",
		tests: "api/godwit/v1/godwitv1connect examples",
	},
	"scripts/testreport": {why: "reads test output"},
}

// listed is what `go list` says of a package.
type listed struct {
	ImportPath                         string
	Dir                                string
	GoFiles, CgoFiles                  []string
	Imports, TestImports, XTestImports []string
}

// name is the import path below the module's.
func (p listed) name() string { return below(p.ImportPath) }

func below(importPath string) string {
	return strings.TrimPrefix(strings.TrimPrefix(importPath, module), "/")
}

// packages lists all packages, lab tests included.
func packages(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-e", "-tags", "lab", "-json=ImportPath,Dir,GoFiles,CgoFiles,Imports,TestImports,XTestImports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		all = append(all, p)
	}
}

func TestEveryRoomImportsOnlyWhomItMay(t *testing.T) {
	found := make(map[string]bool)
	for _, p := range packages(t) {
		name := p.name()
		found[name] = true
		r, ok := rooms[name]
		if !ok {
			t.Errorf("package %s is not in the table of layers_test.go: add it, with whom it may import and why", name)
			continue
		}
		may := strings.Fields(r.may)
		for _, fault := range forbidden(p.Imports, may) {
			t.Errorf("%s imports %s, which it may not: %s", name, fault, r.why)
		}
		may = slices.Concat(may, strings.Fields(r.tests), []string{name})
		for _, fault := range forbidden(slices.Concat(p.TestImports, p.XTestImports), may) {
			t.Errorf("a test of %s imports %s, which it may not: %s", name, fault, r.why)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(rooms)) {
		if !found[name] && !rooms[name].planned {
			t.Errorf("package %s is in the table of layers_test.go and no longer exists: remove it there", name)
		}
		for _, other := range strings.Fields(rooms[name].may + " " + rooms[name].tests) {
			if _, ok := rooms[other]; !ok {
				t.Errorf("the table lets %s import %s, which is not in the table", name, other)
			}
		}
	}
}

// forbidden returns those of the imports that are ours and not in may.
func forbidden(imports, may []string) (faults []string) {
	for _, path := range imports {
		if (path == module || strings.HasPrefix(path, module+"/")) && !slices.Contains(may, below(path)) {
			faults = append(faults, below(path))
		}
	}
	slices.Sort(faults)
	return slices.Compact(faults)
}

func TestEveryPackageHasExactlyOnePackageComment(t *testing.T) {
	for _, p := range packages(t) {
		var commented []string
		generated := 0
		files := slices.Concat(p.GoFiles, p.CgoFiles)
		for _, name := range files {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Errorf("%s: %v", p.name(), err)
				continue
			}
			if ast.IsGenerated(file) {
				generated++
			} else if file.Doc.Text() != "" {
				commented = append(commented, name)
			}
		}
		if len(files) > generated && len(commented) != 1 {
			t.Errorf("package %s has %d package comments %v: one file says what the room is for", p.name(), len(commented), commented)
		}
	}
}

// The names are put together here, or this file would be the first to break the rule.
var unwanted = map[string]string{
	"/wo" + "rk/":           "the place where somebody works",
	"proxy.gol" + "ang.org": "a registry's host", "sum.gol" + "ang.org": "a registry's host",
	"registry.npm" + "js": "a registry's host", "pyp" + "i.org": "a registry's host", "crates" + ".io": "a registry's host",
	"deb.deb" + "ian.org": "a registry's host", "docker" + ".io": "a registry's host", "ghcr" + ".io": "a registry's host",
}

func TestNoFileNamesAWorkplaceOrARegistry(t *testing.T) {
	out, err := exec.Command("git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		t.Skipf("this is no git checkout: %v", err)
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		content, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed, and not yet committed
		}
		if err != nil {
			t.Error(err)
			continue
		}
		for text, what := range unwanted {
			if at := strings.Index(string(content), text); at >= 0 {
				line := 1 + strings.Count(string(content[:at]), "\n")
				t.Errorf("%s:%d names %s (%s)", name, line, text, what)
			}
		}
	}
}
