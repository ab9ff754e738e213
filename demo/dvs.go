package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost"
)

// What the scenario of the DVS runs.
const (
	dvsContainer = "shop"
	dvsName      = "kv"
	dvsTwin      = "kv-replicated"
	// dvsClients ask all the time; each waits so long between two requests.
	dvsClients = 100
	dvsPause   = 10 * time.Millisecond
	// dvsBetween is how long the clients are left alone between two moves.
	dvsBetween = 500 * time.Millisecond
	// dvsRounds is how often the service goes round all nodes.
	dvsRounds = 2
)

// ErrNoModule says that the key-value service is missing.
var ErrNoModule = errors.New("the key-value service is missing")

// DVSOptions of the scenario.
type DVSOptions struct {
	// Binary is godwit's own: it runs the nodes.
	Binary string
	// Module is the key-value service, a WebAssembly module: examples/kv.
	Module string
	// Clients is how many ask; 0 is a hundred.
	Clients int
	// Say is told each step, in a sentence. It may be nil.
	Say func(string)
}

// DVSReport is what the clients saw.
type DVSReport struct {
	Requests   uint64 `json:"requests"`   // answered
	Errors     uint64 `json:"errors"`     // not answered, or not as they should be
	Lost       uint64 `json:"lost"`       // acknowledged, and not there at the end
	Duplicates uint64 `json:"duplicates"` // executed more often than asked
	Moves      int    `json:"moves"`
	// LongestWaitMs is the longest that a client waited for an answer.
	LongestWaitMs float64 `json:"longestWaitMs"`
}

// err is ErrLoss when anything was lost.
func (r *DVSReport) err() error {
	if r.Errors+r.Lost+r.Duplicates > 0 {
		return fmt.Errorf("%w: %d errors, %d lost, %d duplicates", ErrLoss, r.Errors, r.Lost, r.Duplicates)
	}
	return nil
}

// DVS runs three nodes on this machine, a key-value service as a WebAssembly process, and clients on two of them, and moves the service
// from node to node and drains one; then it kills the node that answers for a replicated one. The report is there if the clients have run.
func DVS(ctx context.Context, o DVSOptions) (report *DVSReport, err error) {
	if o.Say == nil {
		o.Say = func(string) {}
	}
	if o.Clients == 0 {
		o.Clients = dvsClients
	}
	module, err := os.ReadFile(o.Module)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoModule, err)
	}
	directory, err := os.MkdirTemp("", "godwit-demo-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(directory)) }()
	o.Say("starting three nodes: a, b and c")
	nodes, err := startDVSNodes(ctx, o.Binary, directory, "a", "b", "c")
	if err != nil {
		return nil, err
	}
	defer nodes.kill()
	a := nodes["a"]
	if err := a.Run(ctx, dvsContainer, dvsName, module, "", ""); err != nil {
		return nil, err
	}
	o.Say(fmt.Sprintf("a key-value service runs on a; %d clients ask it from b and c", o.Clients))
	clients, err := startDVSClients(ctx, dvsName, o.Clients, nodes["b"].socket, nodes["c"].socket)
	if err != nil {
		return nil, err
	}
	moves, err := playDVS(ctx, o, nodes)
	report = clients.report(ctx, nodes["b"].Client)
	report.Moves = moves
	if err == nil {
		err = killDVS(ctx, o, nodes, module, report)
	}
	return report, errors.Join(err, report.err())
}

// killDVS has the service run on all three nodes with one state, and kills the one that answers, without a warning.
func killDVS(ctx context.Context, o DVSOptions, nodes dvsNodes, module []byte, sum *DVSReport) error {
	if err := nodes["a"].RunReplicated(ctx, dvsContainer, dvsTwin, module, "", "", "passive", []string{"a", "b", "c"}); err != nil {
		return err
	}
	o.Say(fmt.Sprintf("a second one runs on all three nodes, with one state; a answers, %d clients ask it from b and c", o.Clients))
	clients, err := startDVSClients(ctx, dvsTwin, o.Clients, nodes["b"].socket, nodes["c"].socket)
	if err != nil {
		return err
	}
	err = pause(ctx, dvsBetween)
	nodes["a"].end()
	o.Say("node a is killed")
	err = errors.Join(err, pause(ctx, 3*dvsBetween))
	r := clients.report(ctx, nodes["b"].Client)
	sum.Requests, sum.Errors, sum.Lost, sum.Duplicates = sum.Requests+r.Requests, sum.Errors+r.Errors, sum.Lost+r.Lost, sum.Duplicates+r.Duplicates
	sum.Moves++ // another node answers
	sum.LongestWaitMs = max(sum.LongestWaitMs, r.LongestWaitMs)
	return err
}

// playDVS moves the service, and returns how often it has moved.
func playDVS(ctx context.Context, o DVSOptions, nodes dvsNodes) (moves int, err error) {
	if err := pause(ctx, dvsBetween); err != nil {
		return 0, err
	}
	for range dvsRounds {
		for _, m := range [][2]string{{"a", "b"}, {"b", "c"}, {"c", "a"}} {
			done, err := nodes[m[0]].Move(ctx, dvshost.MoveRequest{Container: dvsContainer, Name: dvsName, To: m[1]})
			if err != nil {
				return moves, err
			}
			moves++
			o.Say(fmt.Sprintf("moved from %s to %s: its callers waited %.1f ms, after %d pages had been sent while it ran", m[0], m[1], done.HeldMs, done.PagesSent))
			if err := pause(ctx, dvsBetween); err != nil {
				return moves, err
			}
		}
	}
	drained, err := nodes["a"].Drain(ctx, dvshost.DrainRequest{})
	if err != nil {
		return moves, err
	}
	if drained.Err != "" {
		return moves, fmt.Errorf("drain node a: %s", drained.Err)
	}
	moves += len(drained.Moved)
	o.Say("node a is drained")
	return moves, pause(ctx, dvsBetween)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// DVSModule is where the service is unless somebody says otherwise: beside the binary.
func DVSModule(binary string) string { return filepath.Join(filepath.Dir(binary), "kv.wasm") }
