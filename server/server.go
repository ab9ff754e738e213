// Package server says what a platform must do that runs virtual servers: start them, tell how they are, and hand a
// running one over to another host. Package qemu is the platform that exists; nothing here knows it.
//
// A handover of one machine under one epoch, in the order that its driver (the agent) has to keep:
//
//	source                    destination
//	CheckSource               PrepareIncoming        a machine waits, empty and paused
//	Converge ── dial ───────► AcceptIncoming         memory flows, the guest runs; it returns held
//	Converge (again)                                 after a hold: catches up, held again
//	Quiesce                   Loaded                 the guest stops; the rest flows; both ends say so
//	                          Activate               only after the commit: the guest runs at the destination
//	Destroy                                          the source's copy goes
//
// Until the commit, Rollback at the source and DropIncoming at the destination put everything back.
// Every method may be repeated, also by another process after a restart, and refuses an epoch that is older than one
// that the machine has seen. Whoever may write to the disks and whose packets pass is not decided here: volumes
// and taps are kept shut by others while two copies of a machine exist.
package server

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/godwit-project/godwit/server/memcheck"
)

// Errors that a driver tells apart. All others are faults of the moment.
var (
	// ErrOldEpoch refuses a step of an attempt that a newer one has overtaken.
	ErrOldEpoch = errors.New("the epoch is older than one that this machine has seen")
	// ErrAbsent says that no machine of that name is here.
	ErrAbsent = errors.New("no such machine here")
	// ErrNotConverging says that the guest changes its memory faster than the link carries it.
	ErrNotConverging = errors.New("memory does not converge")
	// ErrActivated refuses to drop a machine that owns the service by now.
	ErrActivated = errors.New("the machine was activated")
)

// States of a machine, as Status gives them.
const (
	StateAbsent      = "absent"      // nothing of that name is here
	StateStarting    = "starting"    // its process is there, its control channel not yet
	StateRunning     = "running"     // the guest executes
	StatePaused      = "paused"      // stopped by us, or by the platform for a fault: see Err
	StateIncoming    = "incoming"    // waits for the memory of another machine
	StateLoaded      = "loaded"      // has all of it and waits for Activate
	StatePostmigrate = "postmigrate" // has given everything away and waits for Destroy or Rollback
	StateDead        = "dead"        // its process is gone, its files are still here
)

// Disk is one virtual disk, served over NBD.
type Disk struct {
	Name   string // unique in the machine; it becomes the disk's serial number, as far as 20 characters go
	Socket string // path of the NBD server's unix socket
	Export string // the export's name there; "" is the default export
}

// NIC is one network card.
type NIC struct {
	MAC string // "52:54:00:…", the same on every host
	Tap string // name of an existing persistent tap device on this host
}

// Machine is all that is needed to start a virtual server. What the guest sees of it has to be equal at both ends of
// a handover; the paths and the taps are those of the host.
type Machine struct {
	Name        string
	CPUs        int
	Memory      int64  // bytes, a multiple of 1 MiB
	Kernel      string // path; "" boots the first disk's own boot loader
	Initrd      string // path, or ""
	CommandLine string // the kernel's
	MachineType string // a pinned one of Capabilities, "pc-q35-7.2"; "" takes the first
	CPUModel    string // a named one of Capabilities, "Nehalem-v1"; "" takes the first
	Accelerator string // "kvm" or "tcg"; "" takes the one that Probe found
	Disks       []Disk
	NICs        []NIC
	Console     string // path of the file that the first serial port is appended to; "" keeps it beside the machine
}

// Capabilities are what a host's platform can run. Two hosts can hand a machine over if both name its machine type and
// its CPU model and have the same accelerator.
type Capabilities struct {
	Platform     string   // "qemu"
	Version      string   // of the platform, for people: decide by the lists
	Accelerator  string   // one that really ran a machine
	MachineTypes []string // pinned ones, the preferred first
	CPUModels    []string // pinned ones that the accelerator runs without leaving anything out, the preferred first
	Migration    []string // names of handover features
}

// Status is what is true of one machine now.
type Status struct {
	Name      string
	State     string    // one of the State constants
	PID       int       // 0 if there is no process
	Epoch     uint64    // the newest that the machine has seen
	StoppedAt time.Time // when the guest last stopped at the source, by the platform's own clock stamp
	ResumedAt time.Time // when the guest first ran here after a handover, likewise
	Sent      int64     // bytes of the stream of the last handover that was quiesced here
	Err       string    // what is wrong, if something is
	Stalled   bool      // the platform has stopped the guest, because a disk did not take a write: Start lets it try again
}

// Progress is how far a handover's memory is.
type Progress struct {
	Transferred int64   // bytes sent so far
	Remaining   int64   // bytes of memory known to be still dirty
	Total       int64   // bytes of memory
	DirtyRate   float64 // bytes/s that the guest changes
	Rate        float64 // bytes/s that the link takes
	Iteration   int     // passes over the memory
	Status      string  // the platform's own word
}

// Memory is the mapped memory of a machine that does not run; see package memcheck.
type Memory interface {
	memcheck.Memory
	// Ready does beforehand what makes reading slow the first time. The machine may run.
	Ready() error
	Close() error
}

// Platform runs the machines of one host. Its methods may be called at the same time from many goroutines; those on one
// machine wait for each other where they have to, except that Rollback, DropIncoming and Destroy end a Converge,
// Quiesce, AcceptIncoming or Loaded that is under way.
type Platform interface {
	// Probe finds out what this host can run, by running it. The answer is kept, so only the first call is slow.
	Probe(ctx context.Context) (Capabilities, error)

	// Start runs the machine. A machine that runs already stays as it is.
	Start(ctx context.Context, m Machine) error
	// Destroy ends the machine at once and removes what belongs to it. An absent one is fine.
	Destroy(ctx context.Context, name string) error
	// Status tells how one machine is; an absent one is no error.
	Status(ctx context.Context, name string) (Status, error)
	// List tells how all machines of this host are, including dead ones that were not destroyed.
	List() ([]Status, error)
	// Watch calls f, from one goroutine, for every change that nobody here asked for or waited for: a machine died,
	// stopped, resumed. f must return soon. cancel ends it; f is not called afterwards.
	Watch(f func(Status)) (cancel func())

	// PrepareIncoming starts the machine empty and paused; it waits for AcceptIncoming. One of the same epoch that still
	// waits, or has loaded, stays; one that broke is started anew.
	PrepareIncoming(ctx context.Context, m Machine, epoch uint64) error
	// AcceptIncoming carries conn's bytes into the waiting machine until EOF and closes conn.
	AcceptIncoming(ctx context.Context, name string, epoch uint64, conn net.Conn) error
	// Loaded waits until the machine itself says that it has everything.
	Loaded(ctx context.Context, name string, epoch uint64) error
	// Activate lets the loaded machine run. To be called by the holder of the epoch only. Repeating it is fine.
	Activate(ctx context.Context, name string, epoch uint64) error
	// DropIncoming ends a machine that waits for this epoch or an older one, never one that was activated for this epoch
	// or a later one.
	DropIncoming(ctx context.Context, name string, epoch uint64) error

	// CheckSource says whether the machine runs and could be handed over.
	CheckSource(ctx context.Context, name string) error
	// Converge starts the stream (over the connection that dial makes) or thaws it, lets it run until what remains is
	// small, holds it there and returns: the guest runs on. progress may be nil; it is called often.
	Converge(ctx context.Context, name string, epoch uint64, dial func(context.Context) (net.Conn, error), progress func(Progress)) error
	// Quiesce stops the guest, calls shut, sends what remains, and returns when the last byte is in the connection, the
	// connection's writing side is closed, and the machine has nothing left to do. shut (nil: nothing) shuts the gates
	// outside the platform; the stream is not finished before it has returned nil, for then the platform might let the
	// guest run again by itself. It is called again when Quiesce is repeated.
	Quiesce(ctx context.Context, name string, epoch uint64, shut func(context.Context) error) error
	// Memory maps the memory of a machine whose platform may have missed changes, for package memcheck: to be called at the
	// source when the guest has stopped, at the destination when it has loaded. It is nil, without an error, where the
	// platform's account can be trusted.
	Memory(name string) (Memory, error)
	// Rollback ends whatever stream there is and lets the guest run here again. It works from every state.
	Rollback(ctx context.Context, name string, epoch uint64) error
}
