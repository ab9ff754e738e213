// Package qemu runs virtual servers as QEMU processes.
package qemu

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/godwit-project/godwit/server"
)

// Options say where and how a Platform works.
type Options struct {
	Dir    string // machines live in Dir/NAME; made if missing
	Logger *slog.Logger
	Binary string // path or name of QEMU; "" looks up qemu-system-x86_64

	// StallPasses is how many passes over memory in a row may fail to get nearer before Converge gives up; 0 means 30.
	StallPasses int
	// HoldAt is the time that sending the rest may take for Converge to be satisfied; 0 means 50 ms.
	HoldAt time.Duration
}

// Platform is the server.Platform of this host's QEMU.
type Platform struct{}

var _ server.Platform = (*Platform)(nil)

// New adopts the machines found in o.Dir.
func New(o Options) (*Platform, error) { return &Platform{}, nil }

// Close lets go of all machines, which run on.
func (p *Platform) Close() error { return nil }

func (p *Platform) Probe(ctx context.Context) (c server.Capabilities, err error) { return }
func (p *Platform) Start(ctx context.Context, m server.Machine) error            { return nil }
func (p *Platform) Destroy(ctx context.Context, name string) error               { return nil }
func (p *Platform) Status(ctx context.Context, name string) (s server.Status, err error) {
	return
}
func (p *Platform) List() ([]server.Status, error)            { return nil, nil }
func (p *Platform) Watch(f func(server.Status)) (cancel func()) { return func() {} }
func (p *Platform) PrepareIncoming(ctx context.Context, m server.Machine, epoch uint64) error {
	return nil
}
func (p *Platform) AcceptIncoming(ctx context.Context, name string, epoch uint64, conn net.Conn) error {
	return nil
}
func (p *Platform) Loaded(ctx context.Context, name string, epoch uint64) error       { return nil }
func (p *Platform) Activate(ctx context.Context, name string, epoch uint64) error     { return nil }
func (p *Platform) DropIncoming(ctx context.Context, name string, epoch uint64) error { return nil }
func (p *Platform) CheckSource(ctx context.Context, name string) error                { return nil }
func (p *Platform) Converge(ctx context.Context, name string, epoch uint64, dial func(context.Context) (net.Conn, error), progress func(server.Progress)) error {
	return nil
}
func (p *Platform) Quiesce(ctx context.Context, name string, epoch uint64) error  { return nil }
func (p *Platform) Rollback(ctx context.Context, name string, epoch uint64) error { return nil }
