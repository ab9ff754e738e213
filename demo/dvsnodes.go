package demo

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost"
)

// dvsReady is how long a node may take to start.
const dvsReady = 20 * time.Second

// dvsNode is a node in a process of its own.
type dvsNode struct {
	*dvshost.Client
	socket string
	log    *bytes.Buffer
	end    func() // kills it
}

type dvsNodes map[string]*dvsNode

func (all dvsNodes) kill() {
	for _, n := range all {
		n.end()
	}
}

// startDVSNodes runs nodes that know each other, on addresses of this machine alone.
func startDVSNodes(ctx context.Context, binary, directory string, names ...string) (dvsNodes, error) {
	addresses, err := freeAddresses(names)
	if err != nil {
		return nil, err
	}
	nodes := dvsNodes{}
	for _, name := range names {
		socket := filepath.Join(directory, name+".sock")
		args := []string{"dvs", "node", "--name", name, "--socket", socket, "--listen", addresses[name], "--log-level", "warn", "--cache", filepath.Join(directory, "cache")}
		for _, other := range names {
			if other != name {
				args = append(args, "--peer", other+"="+addresses[other])
			}
		}
		n := &dvsNode{Client: dvshost.NewClient(socket), socket: socket, log: new(bytes.Buffer)}
		cmd := exec.CommandContext(ctx, binary, args...)
		cmd.Stdout, cmd.Stderr = n.log, n.log
		if err := cmd.Start(); err != nil {
			nodes.kill()
			return nil, fmt.Errorf("start node %s: %w", name, err)
		}
		n.end = sync.OnceFunc(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // killed, it always says that it failed
		})
		nodes[name] = n
	}
	for name, n := range nodes {
		if err := n.wait(ctx); err != nil {
			nodes.kill()
			return nil, fmt.Errorf("start node %s: %w: %s", name, err, n.log)
		}
	}
	return nodes, nil
}

// wait waits until the node answers, and reaches all others.
func (n *dvsNode) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dvsReady)
	defer cancel()
	for {
		links, err := n.Links(ctx)
		for _, l := range links {
			if l.Err != "" {
				err = fmt.Errorf("link to %s: %s", l.Node, l.Err)
			}
		}
		if err == nil {
			return nil
		}
		if pause(ctx, 10*time.Millisecond) != nil {
			return err
		}
	}
}

// freeAddresses finds loopback ports that nobody uses.
func freeAddresses(names []string) (map[string]string, error) {
	all := map[string]string{}
	for _, name := range names {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a port: %w", err)
		}
		defer l.Close() // only when all are found, so that they differ
		all[name] = l.Addr().String()
	}
	return all, nil
}
