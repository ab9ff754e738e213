package migration_test

import (
	"errors"

	"github.com/godwit-project/godwit/migration"
)

var errNoSuchStep = errors.New("no such step")

// serverStep carries out one sub-step of a server command. The order inside quiesce is a duty of the real agent: tap and
// volume are shut while QEMU stands still, before its stream may be completed.
func (w *world) serverStep(a *agent, o *op) (progress, error) {
	h := w.hosts[a.site]
	switch o.Step {
	case "server/destination/prepare":
		if h.gone() {
			h.qemu = waiting
		}
	case "server/source/prepare":
		h.stream = stream{epoch: o.Epoch}
	case "server/source/converge", "server/source/synchronize":
		if h.stream.broken || h.gone() {
			return "", errors.New("the stream broke")
		}
		if w.rng.IntN(3) == 0 {
			return wait, nil
		}
	case "server/source/quiesce":
		return w.quiesceSource(h, o)
	case "server/destination/quiesce":
		switch {
		case h.qemu == loaded:
			h.inward = true
		case h.gone() || w.hosts[1-a.site].stream.broken:
			return "", errors.New("the stream broke before all was loaded")
		default:
			return wait, nil
		}
	case "server/destination/commit":
		h.volume.writable = true // the host's agent promotes first, whichever of the two commands came first
		return w.start(a.site, o)
	case "server/source/abort":
		return w.start(a.site, o)
	case "server/destination/abort", "server/source/release":
		if o.pc == 0 {
			h.tap, h.inward = false, false
			return onward, nil
		}
		h.qemu, h.memory, h.stream = none, 0, stream{}
	case "server/destination/release":
	default:
		return "", errNoSuchStep
	}
	return finished, nil
}

func (w *world) quiesceSource(h *host, o *op) (progress, error) {
	if h.gone() || h.stream.broken || (h.stream.complete && h.runs()) {
		return "", errors.New("the stream broke, or QEMU resumed by itself")
	}
	switch o.pc {
	case 0:
		h.qemu = paused
		return onward, nil
	case 1:
		h.tap = w.broken.noGate
		h.inward = h.tap
		return onward, nil
	case 2:
		h.volume.writable = w.broken.noGate || w.broken.noFence
		return onward, nil
	}
	if h.qemu != paused {
		return "", errors.New("QEMU resumed by itself")
	}
	h.stream.complete, h.stream.memory = true, h.memory
	return finished, nil
}

// start makes the guest run and opens its gate: at the destination after the commit, at the source after an abort. A
// QEMU that died is booted anew from the volume.
func (w *world) start(site int, o *op) (progress, error) {
	h := w.hosts[site]
	if o.pc > 0 {
		h.tap, h.inward = true, true
		return finished, nil
	}
	if !h.volume.writable {
		return "", errors.New("the volume is fenced")
	}
	if h.gone() {
		h.memory = h.volume.content
	}
	h.qemu, h.stream = running, stream{}
	return onward, nil
}

// answer puts an agent's event on its way to both runners.
func (w *world) answer(e migration.Event) {
	for i := range w.runners {
		w.post(message{runner: i, event: e})
	}
}

// message is a command on its way to an agent, or an event on its way to a runner.
type message struct {
	agent, runner int
	action        migration.Action
	event         migration.Event // nil for a command
}

// post gives a message to the links.
func (w *world) post(m message) {
	if w.trouble > 0 {
		switch n := w.rng.IntN(1000); {
		case n < w.trouble:
			return
		case n < 2*w.trouble:
			w.bag = append(w.bag, m)
		case n < 3*w.trouble:
			w.slow = append(w.slow, m)
		case n < 4*w.trouble:
			w.slow = append(w.slow, m)
			return
		}
	}
	w.bag = append(w.bag, m)
}

// deliver takes any message, seldom one of the slow ones.
func (w *world) deliver() {
	from := &w.bag
	if len(w.slow) > 0 && w.rng.IntN(20) == 0 {
		from = &w.slow
	}
	if len(*from) == 0 {
		return
	}
	i, last := w.rng.IntN(len(*from)), len(*from)-1
	m := (*from)[i]
	(*from)[i] = (*from)[last]
	*from = (*from)[:last]
	if m.event == nil {
		w.command(w.agents[m.agent], m.action)
		return
	}
	if r := w.runners[m.runner]; r.up && r.loaded {
		r.inbox = append(r.inbox, m.event)
	}
}
