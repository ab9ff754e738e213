package migration_test

// The physical parts of a site. They outlive their agent, as QEMU, tap, volume and routes do.

type qemuState string

const (
	none    qemuState = "none"
	waiting qemuState = "waiting" // for a stream
	loaded  qemuState = "loaded"  // has everything, stands still
	running qemuState = "running"
	paused  qemuState = "paused"
)

type host struct {
	qemu   qemuState // "" is none
	memory int       // the last write that the guest knows of
	tap    bool      // its gate is open
	inward bool      // what comes for the guest waits for it, if it does not run yet
	volume volume

	stream stream // as its source
}

// stream is QEMU's migration stream as its source sees it.
type stream struct {
	epoch    uint64
	complete bool // written to the socket: the destination need not have it
	broken   bool
	memory   int // what it carries
}

type volume struct {
	exists, writable bool
	content          int    // the last write on it
	replica          uint64 // epoch that made it as a replica
	session          uint64 // epoch that it is replicated for, as the source
	mirrored         bool   // synchronously
	drained          bool
}

type edge struct {
	announced  bool
	held       bool
	tunnel     uint64
	intoTunnel bool
	delivers   bool // what comes through the tunnel, to the host; and this site's own traffic
}

func (h *host) runs() bool { return h.qemu == running }

// effective: clients can be answered by it.
func (h *host) effective() bool { return h.runs() && h.tap && h.volume.exists && h.volume.writable }

func (h *host) gone() bool { return h.qemu == none || h.qemu == "" }

// clientWrites: every copy that runs on a writable volume writes and gets its acknowledgement. Programs inside the
// guest are clients too, so the tap does not matter.
func (w *world) clientWrites() {
	for site, h := range w.hosts {
		if !h.runs() || !h.volume.exists || !h.volume.writable {
			continue
		}
		w.acked++
		h.memory, h.volume.content = w.acked, w.acked
		if far := w.hosts[1-site]; h.volume.mirrored && far.volume.replica == h.volume.session {
			far.volume.content = w.acked
		}
		w.note("write %d acknowledged at site %d", w.acked, site)
	}
}

// replicate carries pending writes from a source volume to its replica.
func (w *world) replicate(n int) {
	for site, h := range w.hosts {
		far := &w.hosts[1-site].volume
		if h.volume.exists && h.volume.session != 0 && far.exists && far.replica == h.volume.session && !far.writable {
			far.content = min(far.content+n, h.volume.content)
		}
	}
}

// load delivers a complete stream to the waiting destination.
func (w *world) load() {
	for site, h := range w.hosts {
		far := w.hosts[1-site]
		if h.stream.complete && !h.stream.broken && far.qemu == waiting {
			far.qemu, far.memory = loaded, h.stream.memory
			w.note("site %d has loaded, memory %d", 1-site, far.memory)
		}
	}
}

// fault strikes once: something crashes, dies, or resumes unasked.
func (w *world) fault() {
	switch w.rng.IntN(6) {
	case 0:
		a := w.agents[w.rng.IntN(4)]
		a.up, a.ops = false, nil
		w.count.crashes++
		w.note("agent %v crashes", a)
	case 1, 2:
		r := w.runners[w.rng.IntN(2)]
		*r = runner{id: r.id}
		w.count.crashes++
		w.note("runner %d crashes", r.id)
	case 3:
		w.resumeUnasked(w.rng.IntN(2))
	case 4:
		w.breakStream(w.rng.IntN(2))
	case 5:
		w.killQEMU(w.rng.IntN(2))
	}
}

// resumeUnasked is what QEMU does by itself when its stream breaks late or is cancelled.
func (w *world) resumeUnasked(site int) {
	h := w.hosts[site]
	if h.qemu != paused || h.stream.epoch == 0 {
		return
	}
	h.qemu = running
	w.count.resumes++
	w.note("QEMU at site %d resumes unasked", site)
	if w.hosts[1-site].qemu != loaded {
		h.stream.broken = true
	}
}

func (w *world) breakStream(site int) {
	h := w.hosts[site]
	if h.stream.epoch == 0 || w.hosts[1-site].qemu != waiting {
		return
	}
	h.stream.broken = true
	w.note("stream from site %d breaks", site)
	w.resumeUnasked(site)
}

// killQEMU kills one that a migration under way has in hand: of the destination while it waits or stands loaded, of
// the source while its agent knows of no decision.
func (w *world) killQEMU(site int) {
	h, a := w.hosts[site], w.agents[2*site]
	prepared := func(end string) bool { return w.recorded(a, end+"prepare") }
	switch {
	case h.qemu == waiting || h.qemu == loaded:
		if far := w.hosts[1-site]; far.stream.epoch != 0 {
			far.stream.broken = true
		}
	case a.journal.Decision == "" && w.store.active != nil && w.store.active.Spec.Epoch == a.journal.Epoch &&
		prepared("server/source/") && !h.gone():
		h.stream.broken = true
	default:
		return
	}
	h.qemu, w.bereft = none, true
	w.count.deaths++
	w.note("QEMU at site %d dies", site)
}
