package lab

import (
	"context"
	"errors"
	"net"
	"syscall"
)

var errStub = errors.New("not built yet")

func Up(ctx context.Context, cfg Config, progress func(string)) (*Lab, error) { return nil, errStub }
func Open(name string) (*Lab, error)                                          { return nil, errStub }
func Supervise(ctx context.Context, cfg Config) error                         { return errStub }
func LoadConfig(path string) (Config, error)                                  { return Config{}, errStub }
func (l *Lab) Status(ctx context.Context) (Status, error)                     { return Status{}, errStub }
func (l *Lab) Exec(ctx context.Context, node string, argv []string, stdio Stdio) (int, error) {
	return 0, errStub
}
func Down(ctx context.Context, name string) ([]string, error)                        { return nil, errStub }
func (l *Lab) SetLink(ctx context.Context, site string, change LinkChange) error     { return errStub }
func (l *Lab) Kill(ctx context.Context, process string, signal syscall.Signal) error { return errStub }
func (l *Lab) PowerOff(ctx context.Context, node string) error                       { return errStub }
func (l *Lab) PowerOn(ctx context.Context, node string) error                        { return errStub }
func (l *Lab) Path(ctx context.Context, from, dst string) ([]string, error)          { return nil, errStub }
func (l *Lab) Dial(ctx context.Context, node, network, address string) (net.Conn, error) {
	return nil, errStub
}
func Leftovers(name string) ([]string, error) { return nil, errStub }
