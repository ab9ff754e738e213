package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/godwit-project/godwit/api"
	"github.com/godwit-project/godwit/lab"
)

const (
	// labName keeps the bench's lab apart from one that the user has up.
	labName = "bench"

	west, east  = "west", "east"
	downTimeout = time.Minute
)

// The standard guest of all measurements.
const (
	guestMemory  = 256 << 20
	guestDisk    = 64 << 20
	guestLoad    = "godwit.dirty=2MiB godwit.dirtyspace=64MiB godwit.writes=50 godwit.fsync=5"
	guestConsole = "console=ttyS0 "
)

// bed is the lab in which everything is measured.
type bed struct {
	lab    *lab.Lab
	client *api.Client
	guest  string // folder with vmlinuz and initrd.gz
	say    func(format string, a ...any)

	lineOnly bool
}

// measure builds the lab, measures in rounds, so that whatever drifts drifts alike for all, and takes the lab down.
func measure(ctx context.Context, o options, say func(string, ...any)) (r *results, err error) {
	r = &results{conditions: look()}
	b := &bed{guest: filepath.Join(filepath.Dir(o.binary), "guest"), say: say, lineOnly: o.lineOnly}
	for _, file := range []string{o.binary, b.kernel(), b.initrd()} {
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("find what to measure; 'make build' makes it: %w", err)
		}
	}
	if !o.lineOnly {
		if r.disks, err = measureDisks(ctx, o, say); err != nil {
			return nil, err
		}
	}
	say("building the lab")
	b.lab, err = lab.Up(ctx, lab.Config{Name: labName, Binary: o.binary}, func(step string) { say("  %s", step) })
	if err != nil {
		return nil, fmt.Errorf("start the lab: %w", err)
	}
	defer func() { err = errors.Join(err, b.down(ctx)) }()
	if b.client, err = api.Dial(b.lab.Server(), nil); err != nil {
		return nil, err
	}
	defer b.client.Close()
	for round := 1; round <= o.rounds; round++ {
		if err := b.round(ctx, fmt.Sprintf("round %d of %d", round, o.rounds), r); err != nil {
			return nil, fmt.Errorf("round %d: %w", round, err)
		}
	}
	return r, nil
}

func (b *bed) round(ctx context.Context, name string, r *results) error {
	for i, asked := range askedLines {
		b.say("%s: the line at %s", name, asked)
		got, err := b.measureLine(ctx, asked)
		if err != nil {
			return fmt.Errorf("measure the line at %s: %w", asked, err)
		}
		r.lines[i] = append(r.lines[i], got)
	}
	if b.lineOnly {
		return nil
	}
	if err := b.setLine(ctx, askedLines[0]); err != nil {
		return err
	}
	b.say("%s: Godwit", name)
	ours, err := b.measureGodwit(ctx, r)
	if err != nil {
		return fmt.Errorf("measure Godwit: %w", err)
	}
	r.ours = append(r.ours, ours...)
	b.say("%s: bare QEMU", name)
	bare, err := b.measureBare(ctx, r.machine)
	if err != nil {
		return fmt.Errorf("measure bare QEMU: %w", err)
	}
	r.bare = append(r.bare, bare...)
	return nil
}

// down takes the lab away, also after an interrupt.
func (b *bed) down(ctx context.Context) error {
	b.say("taking the lab down")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), downTimeout)
	defer cancel()
	if _, err := lab.Down(ctx, labName); err != nil {
		return fmt.Errorf("take the lab down: %w", err)
	}
	return nil
}

func (b *bed) kernel() string { return filepath.Join(b.guest, "vmlinuz") }
func (b *bed) initrd() string { return filepath.Join(b.guest, "initrd.gz") }

// link returns the state of a site's uplink.
func (b *bed) link(ctx context.Context, site string) (lab.LinkStatus, error) {
	status, err := b.lab.Status(ctx)
	if err != nil {
		return lab.LinkStatus{}, err
	}
	for _, l := range status.Links {
		if l.Site == site {
			return l, nil
		}
	}
	return lab.LinkStatus{}, fmt.Errorf("read the counters of the uplink of %s: the lab has none", site)
}

// eventually calls done until it says so, fails, or the context ends.
func eventually(ctx context.Context, every time.Duration, done func() (bool, error)) error {
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		if err := sleep(ctx, every); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, length time.Duration) error {
	timer := time.NewTimer(length)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
