// Package lab builds two data centers, a provider network and a client on one machine, in network namespaces, and
// runs Godwit in them the way a user would: through the binary alone. It exists for demonstrations, for system tests
// and for measurements, so what it emulates (delay, bandwidth, loss, cuts) is measured too (see DESIGN.md).
//
// One detached process, the supervisor, owns everything that needs an owner: the emulated links, BIRD, the controller
// and the agents. All else is found again by name: the namespaces godwit-<lab>-<node> and the folder
// /run/godwit/lab-<lab>. That is why Down works after a crash of the supervisor.
//
// Nothing of the inside of Godwit may be imported here; the API at most.
package lab

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

// Errors of the lab as a whole.
var (
	// ErrNotUp says that there is no running lab of that name.
	ErrNotUp = errors.New("the lab is not up; start it with: godwit lab up")
	// ErrUp says that a lab of that name is there already, running or broken.
	ErrUp = errors.New("the lab is up already; take it down first with: godwit lab down")
	// ErrNotRoot says that the caller lacks the rights to make namespaces and devices.
	ErrNotRoot = errors.New("the lab needs root, because it makes network namespaces and devices; run it with sudo")
	// ErrUnknownNode says that the lab has no node of that name.
	ErrUnknownNode = errors.New("no such node; the nodes are client, core, witness, west-edge, west-host, east-edge, east-host")
)

// Defaults of Config.
const (
	DefaultName      = "lab"
	DefaultRTT       = 20 * time.Millisecond
	DefaultBandwidth = 100_000_000
	DefaultMTU       = 1600
)

// root is where the labs of a machine keep their state: one folder lab-<name> each.
const root = "/run/godwit"

// Config says what lab to build. Zero fields take the defaults.
type Config struct {
	// Name tells labs of one machine apart; at most 12 lower-case letters, digits and dashes.
	Name string `json:"name"`
	// RTT is the round trip between the sites; half of it lies between either site and the core. Negative for none.
	RTT time.Duration `json:"rtt"`
	// Bandwidth of either site's uplink, per direction, in bit/s of Ethernet frames. Negative for no limit.
	Bandwidth int64 `json:"bandwidth"`
	// Loss is the probability (0 to 1) that a frame is lost on a site's uplink, per direction.
	Loss float64 `json:"loss"`
	// Controllers is the number of controllers: 1.
	Controllers int `json:"controllers"`
	// Binary is the path of godwit; the running executable by default.
	Binary string `json:"binary"`
	// Dir holds the lab's state instead of /run/godwit/lab-<name>. It must not exist, or be empty; Down removes it.
	Dir string `json:"dir,omitempty"`
	// MTU of the provider's and the sites' links in bytes; large enough for a guest's 1500 and a tunnel's header.
	MTU int `json:"mtu"`
	// Seed of the random losses; 0 takes a fixed one, so that two labs lose alike.
	Seed uint64 `json:"seed,omitempty"`
}

// Lab is a handle to a running lab. It holds no resources and needs no closing.
type Lab struct {
	name string
	dir  string
	cfg  Config
}

// Stdio is what a command in a node reads and writes. Files are passed on as they are, so that terminals work.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// LinkChange alters a site's uplink while the lab runs. Nil fields stay as they are.
type LinkChange struct {
	// Cut drops everything, both directions, also what is under way; false restores the link.
	Cut *bool `json:"cut,omitempty"`
	// Rate is the bandwidth per direction in bit/s; 0 for no limit.
	Rate *int64 `json:"rate,omitempty"`
	// Delay is the one-way delay of this link: a quarter of the RTT between the sites.
	Delay *time.Duration `json:"delay,omitempty"`
	// Loss is the probability (0 to 1) that a frame is lost.
	Loss *float64 `json:"loss,omitempty"`
}

// Status is what a lab looks like at one moment.
type Status struct {
	Name      string       `json:"name"`
	Dir       string       `json:"dir"`
	Server    string       `json:"server"`
	Started   time.Time    `json:"started"`
	Ready     bool         `json:"ready"`
	Pid       int          `json:"pid"`
	Config    Config       `json:"config"`
	Nodes     []NodeStatus `json:"nodes"`
	Processes []Process    `json:"processes"`
	Links     []LinkStatus `json:"links"`
	BGP       []BGPSession `json:"bgp"`
}

// NodeStatus describes a node.
type NodeStatus struct {
	Name      string   `json:"name"`
	Site      string   `json:"site,omitempty"`
	Role      string   `json:"role"`
	Namespace string   `json:"namespace"`
	Addresses []string `json:"addresses"`
	Powered   bool     `json:"powered"`
}

// Process is a program that the supervisor keeps running.
type Process struct {
	Name     string    `json:"name"`
	Node     string    `json:"node"`
	Pid      int       `json:"pid"` // 0 while it does not run
	Restarts int       `json:"restarts"`
	Since    time.Time `json:"since"`
	LastExit string    `json:"lastExit,omitempty"`
	Log      string    `json:"log"`
}

// LinkStatus describes the uplink of a site.
type LinkStatus struct {
	Site  string        `json:"site"`
	Cut   bool          `json:"cut"`
	Rate  int64         `json:"rate"`  // bit/s per direction, 0: no limit
	Delay time.Duration `json:"delay"` // one way
	Loss  float64       `json:"loss"`
	In    LinkCounters  `json:"in"`  // core to site
	Out   LinkCounters  `json:"out"` // site to core
}

// LinkCounters count what one direction of a link has delivered and dropped since the lab started.
type LinkCounters struct {
	Bytes   uint64 `json:"bytes"`
	Packets uint64 `json:"packets"`
	// Dropped counts packets lost at random, in a full queue, or because the link was cut.
	Dropped uint64 `json:"dropped"`
}

// BGPSession is a session of the core router, as BIRD tells it.
type BGPSession struct {
	Name  string `json:"name"`
	State string `json:"state"` // "Established" when it is up
}

// Server returns the address of the controller for the command line: a unix socket.
func (l *Lab) Server() string { return "unix://" + filepath.Join(l.dir, "controller.sock") }

// Dir returns the folder in which the lab keeps its state and its logs.
func (l *Lab) Dir() string { return l.dir }

// Config returns the configuration with which the lab was started, defaults filled in.
func (l *Lab) Config() Config { return l.cfg }

var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,11}$`)

func (c Config) withDefaults() (Config, error) {
	if c.Name == "" {
		c.Name = DefaultName
	}
	switch {
	case c.RTT == 0:
		c.RTT = DefaultRTT
	case c.RTT < 0:
		c.RTT = -1
	}
	switch {
	case c.Bandwidth == 0:
		c.Bandwidth = DefaultBandwidth
	case c.Bandwidth < 0:
		c.Bandwidth = -1
	}
	if c.Controllers == 0 {
		c.Controllers = 1
	}
	if c.MTU == 0 {
		c.MTU = DefaultMTU
	}
	if c.Seed == 0 {
		c.Seed = 1
	}
	if c.Binary == "" {
		exe, err := os.Executable()
		if err != nil {
			return c, errors.Join(errors.New("find the godwit binary"), err)
		}
		c.Binary = exe
	}
	return c, c.validate()
}
