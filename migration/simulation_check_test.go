package migration_test

// look checks the safety rules of the house (DESIGN, section 3) after a sub-step.
func (w *world) look() error {
	if w.broke != nil {
		return w.broke
	}
	west, east := w.hosts[0], w.hosts[1]
	if west.effective() && east.effective() {
		return w.violate("rule 1: two effective copies")
	}
	memory, volumes := false, false
	for site, h := range w.hosts {
		if h.volume.exists && h.volume.content == w.acked {
			volumes = true
		}
		if !h.gone() && h.qemu != waiting && h.memory == w.acked {
			memory = true
		}
		if !h.effective() {
			continue
		}
		if w.store.owner != site {
			return w.violate("rule 1: the copy at site %d is effective, the owner is site %d", site, w.store.owner)
		}
		if h.volume.content != w.acked {
			return w.violate("rule 2: write %d was acknowledged, the effective copy's volume has %d", w.acked, h.volume.content)
		}
		if h.memory != w.acked {
			return w.violate("rule 3: write %d was acknowledged, the effective copy's memory knows %d", w.acked, h.memory)
		}
	}
	if !volumes {
		return w.violate("rule 2: write %d is on no volume", w.acked)
	}
	if !memory && !w.bereft {
		return w.violate("rule 3: no copy has the memory that knows write %d", w.acked)
	}
	return nil
}

// atRest checks rule 4 when all is over: the service runs at its owner's site, and nothing is left behind.
func (w *world) atRest() {
	here, there := w.hosts[w.store.owner], w.hosts[1-w.store.owner]
	switch {
	case !here.effective():
		_ = w.violate("at rest: the service does not run at its site %d: %+v", w.store.owner, here)
	case here.volume.session != 0 || here.volume.mirrored || here.volume.replica != 0 || here.stream.epoch != 0:
		_ = w.violate("at rest: a session is left at site %d: %+v", w.store.owner, here)
	case !there.gone() || there.tap || there.inward || there.volume.exists:
		_ = w.violate("at rest: something is left at site %d: %+v", 1-w.store.owner, there)
	}
	for site, e := range w.edges {
		if want := (edge{announced: site == w.store.owner}); *e != want {
			_ = w.violate("at rest: something is left at edge %d: %+v, owner %d", site, e, w.store.owner)
		}
	}
}
