package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

const (
	bareAddress = "203.0.113.20"
	diskPort    = "10809"
	memoryPort  = "49152"
	mirrorJob   = "mirror"
	// mirrorPatience is ten times what the standard disk needs.
	mirrorPatience = 2 * time.Minute
	targetNode     = "target"
)

// measureBare starts the same guest in a QEMU alone and moves it there and back in the way that libvirt does.
func (b *bed) measureBare(ctx context.Context, m machine) (moves []move, err error) {
	routes, err := b.openRoutes(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, routes.close(ctx)) }()
	dir := filepath.Join(b.lab.Dir(), "bare") // in the lab's folder, which goes with the lab, on the disk of Godwit's volumes
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := routes.switchTo(west); err != nil {
		return nil, err
	}
	here, err := b.startVM(ctx, filepath.Join(dir, "0"), west, m, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, here.end()) }()
	if err := b.warm(ctx, bareAddress); err != nil {
		return nil, errors.Join(err, here.lastWords())
	}
	for i, to := range []string{east, west} {
		var there *vm
		result, err := b.watch(ctx, bareAddress, to, func(moving context.Context) (o outcome, err error) {
			// Started under the longer context: the guest stays in it when the move is over.
			waiting, err := b.startVM(ctx, filepath.Join(dir, strconv.Itoa(i+1)), to, m, true)
			if err != nil {
				return o, err
			}
			if o, err = moveBare(moving, here, waiting, to, routes); err != nil {
				return o, errors.Join(err, waiting.lastWords(), waiting.end())
			}
			there = waiting
			return o, nil
		})
		if there != nil { // the guest is there now, whatever the client saw
			gone := here
			here = there
			err = errors.Join(err, gone.end())
		}
		if err != nil {
			return nil, fmt.Errorf("move to %s: %w", to, err)
		}
		moves = append(moves, result)
	}
	return moves, b.verify(ctx, bareAddress)
}

// handover is one move of a bare guest.
type handover struct {
	from, to    *vm
	address     string // of the destination's host
	phases      []phase
	memoryBytes float64
	diskBytes   float64
}

// step notes how long a part of the move took.
func (h *handover) step(name string, f func() error) error {
	began := time.Now()
	if err := f(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	h.phases = append(h.phases, phase{name, milliseconds(time.Since(began))})
	return nil
}

// moveBare moves the guest to a QEMU that waits for it. As libvirt does: the disk is mirrored to the destination's NBD
// server until the copy follows every write; then pre-copy; when QEMU has stopped the guest, the mirror is ended, and
// only then the destination may have the disk. Routes are switched straight after.
func moveBare(ctx context.Context, from, to *vm, site string, routes *routes) (o outcome, err error) {
	h := &handover{from: from, to: to, address: routes.places[site].host}
	mark, markTo := from.mark(), to.mark()
	for _, part := range []struct {
		name string
		do   func() error
	}{
		{"disk", func() error { return h.mirror(ctx) }},
		{"memory", func() error { return h.memory(ctx) }},
		{"switch", func() error { return h.finish(ctx, mark, markTo, func() error { return routes.switchTo(site) }) }},
	} {
		if err := h.step(part.name, part.do); err != nil {
			return o, err
		}
	}
	stopped, err := from.awaitEvent(ctx, mark, "STOP")
	if err != nil {
		return o, err
	}
	resumed, err := to.awaitEvent(ctx, markTo, "RESUME")
	return outcome{
		blackout: milliseconds(resumed.at.Sub(stopped.at)), phases: h.phases,
		counted: h.memoryBytes + h.diskBytes, memory: h.memoryBytes, disk: h.diskBytes,
	}, err
}

// mirror copies the disk until the copy keeps up.
func (h *handover) mirror(ctx context.Context) error {
	type object = map[string]any
	server := object{"host": h.address, "port": diskPort}
	err := h.to.call(ctx, "nbd-server-start", object{"addr": object{"type": "inet", "data": server}}, nil)
	if err != nil {
		return err
	}
	if err := h.to.call(ctx, "nbd-server-add", object{"device": diskNode, "writable": true}, nil); err != nil {
		return err
	}
	err = h.from.call(ctx, "blockdev-add", object{
		"driver": "raw", "node-name": targetNode,
		"file": object{"driver": "nbd", "export": diskNode, "server": object{"type": "inet", "host": h.address, "port": diskPort}},
	}, nil)
	if err != nil {
		return err
	}
	mark := h.from.mark()
	err = h.from.call(ctx, "blockdev-mirror", object{
		"job-id": mirrorJob, "device": diskNode, "target": targetNode, "sync": "full",
		// In QEMU's default, `background`, it is ready at an instant at which nothing is to copy and nothing on its way: with a
		// write every 20 ms and a round trip of 20 ms that is a matter of luck, and once of more than three minutes.
		"copy-mode": "write-blocking",
	}, nil)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, mirrorPatience, fmt.Errorf("the mirror of the disk was not ready after %v; look at the line", mirrorPatience))
	defer cancel()
	if err := h.from.awaitJob(ctx, mark, "BLOCK_JOB_READY", mirrorJob); err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	return nil
}

// memory copies the memory until QEMU has stopped the guest for the last of it.
func (h *handover) memory(ctx context.Context) error {
	type object = map[string]any
	for _, set := range []struct {
		vm         *vm
		capability string
	}{{h.from, "events"}, {h.from, "pause-before-switchover"}, {h.to, "events"}, {h.to, "late-block-activate"}} {
		list := []object{{"capability": set.capability, "state": true}}
		if err := set.vm.call(ctx, "migrate-set-capabilities", object{"capabilities": list}, nil); err != nil {
			return err
		}
	}
	uri := object{"uri": "tcp:" + h.address + ":" + memoryPort}
	if err := h.to.call(ctx, "migrate-incoming", uri, nil); err != nil {
		return err
	}
	mark := h.from.mark()
	if err := h.from.call(ctx, "migrate", uri, nil); err != nil {
		return err
	}
	return h.from.awaitMigration(ctx, mark, "pre-switchover")
}

// finish ends the mirror, lets the destination have what is left, and lets it run.
func (h *handover) finish(ctx context.Context, mark, markTo int, switchRoutes func() error) error {
	type object = map[string]any
	var jobs []struct{ Offset float64 }
	if err := h.from.call(ctx, "query-block-jobs", nil, &jobs); err != nil {
		return err
	}
	if err := h.from.call(ctx, "block-job-cancel", object{"device": mirrorJob}, nil); err != nil {
		return err
	}
	if err := h.from.awaitJob(ctx, mark, "BLOCK_JOB_COMPLETED", mirrorJob); err != nil {
		return err
	}
	if err := h.from.call(ctx, "migrate-continue", object{"state": "pre-switchover"}, nil); err != nil {
		return err
	}
	if err := h.to.awaitMigration(ctx, markTo, "completed"); err != nil {
		return err
	}
	if err := h.to.call(ctx, "nbd-server-stop", nil, nil); err != nil {
		return err
	}
	if err := h.to.call(ctx, "cont", nil, nil); err != nil {
		return err
	}
	if err := switchRoutes(); err != nil {
		return err
	}
	var info struct{ RAM struct{ Transferred float64 } }
	if err := h.from.call(ctx, "query-migrate", nil, &info); err != nil {
		return err
	}
	h.memoryBytes = info.RAM.Transferred
	for _, job := range jobs {
		h.diskBytes += job.Offset
	}
	return nil
}
