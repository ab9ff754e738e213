package storage

import (
	"context"
	"log/slog"
	"net"
	"time"
)

type Options struct {
	// Logger receives what no caller can be told; nil discards it.
	Logger *slog.Logger
	// SyncTimeout is how long a write in sync mode waits for the other end before the volume falls back to async;
	// 2 s when zero.
	SyncTimeout time.Duration
}
type Store struct{}
type Volume struct{}

func Open(dir string, opts Options) (*Store, error)                                  { return nil, ErrClosed }
func (s *Store) Close() error                                                        { return nil }
func (s *Store) Create(ctx context.Context, spec Spec, epoch uint64) (*Volume, error) { return nil, ErrClosed }
func (s *Store) CreateReplica(ctx context.Context, spec Spec, epoch uint64) (*Volume, error) {
	return nil, ErrClosed
}
func (s *Store) Volume(name string) (*Volume, error)                         { return nil, ErrNotFound }
func (s *Store) Volumes() []Status                                           { return nil }
func (s *Store) Free() (int64, error)                                        { return 0, nil }
func (s *Store) Delete(ctx context.Context, name string, epoch uint64) error { return nil }
func (v *Volume) Status() Status                                             { return Status{} }
func (v *Volume) Import(ctx context.Context, path string, progress func(done, total int64)) error {
	return nil
}
func (v *Volume) Serve(socket string) error { return nil }
func (v *Volume) Replicate(ctx context.Context, epoch uint64, dial func(context.Context) (net.Conn, error)) error {
	return nil
}
func (v *Volume) Converged(ctx context.Context, progress func(Status)) error { return nil }
func (v *Volume) Synchronize(ctx context.Context, epoch uint64) error         { return nil }
func (v *Volume) Fence(ctx context.Context, epoch uint64) error               { return nil }
func (v *Volume) Unfence(ctx context.Context, epoch uint64) error             { return nil }
func (v *Volume) Drained(ctx context.Context, epoch uint64) error             { return nil }
func (v *Volume) Promote(ctx context.Context, epoch uint64) error             { return nil }
func (v *Volume) ServeReplica(ctx context.Context, conn net.Conn) error       { return nil }
func (v *Volume) Forget(ctx context.Context, epoch uint64) error              { return nil }
