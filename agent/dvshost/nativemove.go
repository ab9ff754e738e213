package dvshost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/node"
	"github.com/godwit-project/godwit/migration"
	"github.com/godwit-project/godwit/server/native"
)

const (
	// maxImage bounds the image of a process that is taken in, and its executable, in bytes.
	maxImage = 64 << 30
	// imageTries bounds how often an image is tried to be taken, and imagePause is how long the program, which is held, runs in between.
	imageTries = 3
	imagePause = 20 * time.Millisecond
)

// A program that moves as a whole, as its source (S) and its destination (D) see it:
//
//	prepare   D: fetches the executable, makes a place, and binds a standby of its own, the arrival
//	quiesce   S: the endpoint is held and its state sent, as any other's; it says nothing of the program
//	          D: the arrival is given it, fetches the program's image (S: stops the program) and restores the program, stopped
//	commit    D: the arrival is the owner; the program runs, finds its node, binds as a standby, and the arrival moves the endpoint on to it
//	          S: the stopped program is ended
//	abort     S: the program runs on     D: place and arrival are ended

// nativeStep does what a step at the source needs of a program that moves as a whole; done says that nothing else is to be done.
func (m *mover) nativeStep(ctx context.Context, step migration.StepID) (done bool, err error) {
	p := m.h.natives.find(m.k)
	switch {
	case p == nil:
		return false, nil
	case p.place == nil && step == releaseProcess:
		p.release()
		return true, nil
	case p.place == nil:
		return false, nil
	}
	switch step {
	case prepareOwner:
		return false, p.alone()
	case quiesceEndpoint:
		return false, p.letGo(ctx, m.epoch)
	case abortOwner:
		return false, p.letGo(ctx, 0)
	case commitOwner:
		return true, m.depart(ctx)
	default:
		return false, nil
	}
}

// alone refuses a process that has more names than the one that moves.
func (p *program) alone() error {
	if names := p.names(); len(names) > 1 {
		return fmt.Errorf("%w: %q", ErrNativeNames, names)
	}
	return nil
}

// letGo has the program run, if an image has been taken, and says for which move one may be taken now.
func (p *program) letGo(ctx context.Context, epoch uint64) error {
	p.dumping.Lock()
	defer p.dumping.Unlock()
	p.epoch = epoch
	err := p.place.Continue(ctx)
	if errors.Is(err, native.ErrEnded) {
		return nil // the node knows that too
	}
	return err
}

// wake has a program that moves as a whole run, and no image be taken of it: its endpoint is held, or is its own again, but it has to hear of that.
func (h *Host) wake(ctx context.Context, k key) error {
	if p := h.natives.find(k); p != nil && p.place != nil {
		return p.letGo(ctx, 0)
	}
	return nil
}

// image stops the program of a move and writes its image.
func (p *program) image(ctx context.Context, epoch uint64, dir string) error {
	p.dumping.Lock()
	defer p.dumping.Unlock()
	if p.place == nil || epoch == 0 || p.epoch != epoch {
		return errNativeOver
	}
	p.epoch = 0
	err := p.place.Dump(ctx, dir)
	for try := 1; err != nil && try < imageTries; try++ { // a connection may have been on its way to it, which it gives up when it sees it
		if err := p.place.Continue(ctx); err != nil {
			return err
		}
		time.Sleep(imagePause)
		err = p.place.Dump(ctx, dir)
	}
	return err
}

// depart ends the owner here, after the commit. A stopped program cannot be told: it is ended as soon as the node has let go of it, and
// what it asked of others is not forgotten.
func (m *mover) depart(ctx context.Context) error {
	p := m.h.natives.find(m.k)
	if p == nil || p.place == nil {
		return m.commitHere(ctx)
	}
	m.set(func() { m.freeAt = time.Now() }) // it runs there, or this one never will
	told := make(chan error, 1)
	m.late.Go(func() {
		told <- m.commitHere(ctx)
	})
	var err error
	answered := false
	for !answered && p.owns() {
		select {
		case err = <-told:
			answered = true
		case <-time.After(nativePause):
		}
	}
	if err != nil && p.owns() {
		return err // it will be tried again
	}
	if n, is := m.h.o.Node.(interface{ Depart(pid int) }); is {
		n.Depart(p.runner.PID())
	}
	p.end()
	if !answered {
		err = <-told
	}
	return err
}

// commitHere tells the node that the endpoint is elsewhere. It may have heard of a newer epoch already: of what the destination has made of it since.
func (m *mover) commitHere(ctx context.Context) error {
	err := m.h.o.Node.Do(ctx, m.command(commitOwner))
	if errors.Is(err, node.ErrOver) && !slices.ContainsFunc(m.h.endpointsOf(m.k), func(e node.EndpointInfo) bool {
		return e.Node == m.h.o.Name && e.Version.Epoch < m.epoch
	}) {
		return nil
	}
	return err
}

// release ends a program whose state has moved to another process, unless it does so by itself soon, or has other names.
func (p *program) release() {
	select {
	case <-p.runner.Ended():
		return
	case <-time.After(closeTime):
	}
	if len(p.names()) == 0 {
		p.end()
	}
}

// names are those that the program has at this node.
func (p *program) names() (all []string) {
	for _, e := range p.h.o.Node.Endpoints() {
		if e.PID == p.runner.PID() {
			all = append(all, e.Name)
		}
	}
	return all
}

// owns tells whether the program has its name at this node.
func (p *program) owns() bool {
	for _, e := range p.h.endpointsOf(p.spec.key()) {
		if e.PID == p.runner.PID() && e.Node == p.h.o.Name {
			return true
		}
	}
	return false
}

// nativeSpec is what the destination is told of a native program in a step; nil for anything else.
func (h *Host) nativeSpec(k key, step migration.StepID) *NativeSpec {
	p := h.natives.find(k)
	if p == nil || step != prepareProcess {
		return nil
	}
	spec := p.spec
	spec.Path = ""
	return &spec
}

// expect makes ready for a native program that comes, in place of one for which that was done before.
func (h *Host) expect(ctx context.Context, k key, r StepRequest) error {
	if !h.natives.o.Accept {
		return ErrNativeAccept
	}
	h.forget(k)
	peer, err := h.peerOf(r.From)
	if err != nil {
		return err
	}
	spec := *r.Native
	spec.Container, spec.Name = k.container, k.name
	file, err := os.CreateTemp(h.scratch, "godwit-program-")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) // it is copied, or running
	err = peer.executable(ctx, k, file)
	if err == nil {
		err = file.Chmod(0o700)
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("fetch the program: %w", err)
	}
	p := h.newProgram(spec)
	if err = p.prepare(ctx, file.Name()); err == nil {
		if spec.Whole {
			p.arrival, err = h.newArrival(ctx, p, peer, r.Epoch)
		} else {
			err = p.start(ctx, dvs.MovesState)
		}
	}
	if err == nil && !spec.Whole { // before its file is removed
		err = p.waitFor(ctx, func(e node.EndpointInfo) bool { return e.Standby })
	}
	if err == nil {
		err = h.natives.add(p, true)
	}
	if err != nil {
		p.end()
		return err
	}
	h.start(func() { h.adopt(&hosted{h: h, key: k, epoch: r.Epoch, from: r.From, waited: p.waited}) })
	return nil
}

// settleNative ends a move to this node: the program runs and has its endpoint.
func (h *Host) settleNative(ctx context.Context, k key) error {
	h.natives.mu.Lock()
	p := h.natives.coming[k]
	h.natives.mu.Unlock()
	if p == nil {
		return nil
	}
	var err error
	if p.arrival != nil {
		err = p.arrival.handOver(ctx)
	}
	if err == nil {
		err = h.natives.add(p, false)
	}
	if err != nil {
		h.natives.forget(k)
		return refused(migration.Gone, "the program was given the endpoint, and did not get on: %v", err)
	}
	h.watchNative(p)
	return nil
}
