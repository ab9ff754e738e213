package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/godwit-project/godwit/api"
	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/lab"
	"github.com/godwit-project/godwit/lab/probe"
)

const (
	// labName keeps the demo's lab apart from one that the user has up.
	labName = "demo"
	service = "demo"
	address = "203.0.113.10"
	source  = "west"
	target  = "east"

	// counterPort answers the probe, controlPort says what became of the guest's writes.
	counterPort = "7000"
	controlPort = "7001"

	// probeLead and probeTail are how long the probe runs alone before and after the migration.
	probeLead = time.Second
	probeTail = 3 * time.Second

	startTimeout = 3 * time.Minute
	downTimeout  = time.Minute
	patience     = time.Minute
)

// Options of a scenario.
type Options struct {
	// GuestDir holds the guest: vmlinuz and initrd.gz.
	GuestDir string
	// Lab is the lab to build; its name is the demo's own.
	Lab lab.Config
	// Keep leaves the lab up at the end.
	Keep bool
	// Say is told each step, in a sentence; Seen each state of the migration. Both may be nil.
	Say  func(string)
	Seen func(*godwitv1.Migration)
}

// ErrNoGuest says that the guest's files are missing.
var ErrNoGuest = errors.New("the guest is missing")

// Planned moves a running service from one site to the other under the eyes of a client. The report is there when the
// migration came to an end, whatever it was; the error says what went wrong, also of taking the lab down.
func Planned(ctx context.Context, options Options) (report *Report, err error) {
	run := &planned{Options: options}
	if run.Say == nil {
		run.Say = func(string) {}
	}
	if err := run.checkGuest(); err != nil {
		return nil, err
	}
	run.Say("building the lab: two data centers, a provider, a client")
	run.Lab.Name = labName
	run.lab, err = lab.Up(ctx, run.Lab, func(step string) { run.Say("  " + step) })
	if err != nil {
		return nil, fmt.Errorf("start the lab: %w", err)
	}
	defer func() { err = errors.Join(err, run.saveOnFailure(ctx, err), run.down(ctx)) }()
	run.client, err = api.Dial(run.lab.Server(), nil)
	if err != nil {
		return nil, err
	}
	defer run.client.Close()
	if err := run.start(ctx); err != nil {
		return nil, err
	}
	return run.measure(ctx)
}

// planned is one run of the scenario.
type planned struct {
	Options
	lab    *lab.Lab
	client *api.Client
}

func (p *planned) checkGuest() error {
	for _, name := range []string{"vmlinuz", "initrd.gz"} {
		path := filepath.Join(p.GuestDir, name)
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("%w: %s cannot be read; 'make build' makes it: %w", ErrNoGuest, path, err)
		}
	}
	return nil
}

// down takes the lab away, also when the caller has been interrupted.
func (p *planned) down(ctx context.Context) error {
	if p.Keep {
		p.Say(fmt.Sprintf("the lab stays up: --server %s; 'godwit lab down --name %s' takes it down", p.lab.Server(), labName))
		return nil
	}
	p.Say("taking the lab down")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), downTimeout)
	defer cancel()
	if _, err := lab.Down(ctx, labName); err != nil {
		return fmt.Errorf("take the lab down: %w", err)
	}
	return nil
}

// start applies the service and waits until it answers.
func (p *planned) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("the service did not answer within %v", startTimeout))
	defer cancel()
	spec := &godwitv1.ServiceSpec{
		Name: service, Site: source, Network: api.DefaultNetwork,
		Server: &godwitv1.ServerSpec{
			Cpus: 1, Memory: 256 << 20,
			Kernel: filepath.Join(p.GuestDir, "vmlinuz"), Initrd: filepath.Join(p.GuestDir, "initrd.gz"),
			CommandLine: "console=ttyS0 godwit.dirty=2MiB godwit.dirtyspace=64MiB godwit.writes=50 godwit.fsync=5",
		},
		Volumes:   []*godwitv1.VolumeSpec{{Name: "data", Size: 64 << 20}},
		Addresses: []string{address},
	}
	p.Say(fmt.Sprintf("starting the service at %s: 256 MiB of memory, a disk of 64 MiB, %s", source, address))
	if err := p.client.UploadFiles(ctx, spec, nil); err != nil {
		return err
	}
	if _, err := p.client.Apply(ctx, spec); err != nil {
		return err
	}
	if err := p.waitRunning(ctx); err != nil {
		return err
	}
	p.Say("waiting until it answers")
	return p.waitAnswer(ctx)
}

func (p *planned) waitRunning(ctx context.Context) error {
	return eventually(ctx, 250*time.Millisecond, func() (bool, error) {
		now, err := p.client.Service(ctx, service)
		switch {
		case api.Unreachable(err):
			return false, nil
		case err != nil:
			return false, err
		case now.GetStatus().GetPhase() == "failed":
			return false, fmt.Errorf("the service does not start: %s", now.GetStatus().GetMessage())
		default:
			return now.GetStatus().GetPhase() == "running", nil
		}
	})
}

// waitAnswer asks until there is an answer; a guest that boots refuses or drops what comes before.
func (p *planned) waitAnswer(ctx context.Context) error {
	return eventually(ctx, 250*time.Millisecond, func() (bool, error) {
		answer, err := p.ask(ctx, counterPort, "0", 2*time.Second)
		return err == nil && len(answer) > 0, nil
	})
}

// ask sends one line to the service from the client and returns the line that comes back.
func (p *planned) ask(ctx context.Context, port, line string, timeout time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := p.lab.Dial(ctx, "client", "tcp", address+":"+port)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		return nil, errors.Join(fmt.Errorf("ask the service: %w", err), conn.Close())
	}
	answer, err := readLine(conn)
	if err != nil {
		err = fmt.Errorf("ask the service for %q: %w", line, err)
	}
	return answer, errors.Join(err, conn.Close())
}

// readLine reads up to the first newline; answers of both ports are far shorter than the bound.
func readLine(from io.Reader) ([]byte, error) {
	const longest = 64 << 10
	var line []byte
	buffer := make([]byte, 512)
	for len(line) < longest {
		n, err := from.Read(buffer)
		line = append(line, buffer[:n]...)
		if n > 0 && line[len(line)-1] == '\n' {
			return line, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, errors.New("the answer does not end")
}

// eventually calls done until it says so, fails, or the context ends.
func eventually(ctx context.Context, every time.Duration, done func() (bool, error)) error {
	for {
		ok, err := done()
		if ok || err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(every):
		}
	}
}

// startProbe lets a client ask, until the returned function is called, which waits for the report.
func (p *planned) startProbe(ctx context.Context) (stop func() probe.Report, err error) {
	conn, err := p.lab.Dial(ctx, "client", "tcp", address+":"+counterPort)
	if err != nil {
		return nil, fmt.Errorf("connect the probe: %w", err)
	}
	probing, cancel := context.WithCancel(ctx)
	result := make(chan probe.Report, 1)
	go func() { result <- probe.Run(probing, conn, probe.Options{}) }()
	return func() probe.Report {
		cancel()
		return <-result
	}, nil
}
