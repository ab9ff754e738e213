package qemu

import (
	"context"

	"github.com/godwit-project/godwit/server"
)
type findings struct { server.Capabilities; Ballast bool }
func (p *Platform) probe(ctx context.Context) (findings, error) {
	return findings{Capabilities: server.Capabilities{Accelerator: "tcg", MachineTypes: []string{"pc-q35-7.2"}, CPUModels: []string{"Westmere-v1"}}, Ballast: true}, nil
}
func (p *Platform) Probe(ctx context.Context) (server.Capabilities, error) { f, err := p.probe(ctx); return f.Capabilities, err }
