package controller

import (
	"context"
	"errors"
	"slices"

	"github.com/godwit-project/godwit/cluster"
)

// look compares, in the background, what an agent runs with what its host owns, and starts what is missing. Services
// that are being migrated are left to their migration.
func (s *services) look(agent string) {
	if s.work.Err() != nil {
		return
	}
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		if err := s.lookAt(s.work, agent); err != nil && s.work.Err() == nil {
			s.logger.Error("services of an agent could not be checked", "agent", agent, "err", err)
		}
	}()
}

// lookAgain is look, at the agent's next heartbeat: what it told before may be older than what has just been done. Without
// a session there is nothing to wait for: the next one begins with a look.
func (s *services) lookAgain(agent string) {
	if s.work.Err() != nil {
		return
	}
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		if s.agents.awaitBeat(s.work, agent) {
			s.look(agent)
		}
	}()
}

func (s *services) lookAt(ctx context.Context, agent string) error {
	all, err := s.agents.all(ctx)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(all, func(a agentState) bool { return a.Name == agent && a.Ready })
	if at < 0 {
		return nil // it has gone again: its next session begins with a look
	}
	alive := make(map[string]bool)
	for _, h := range all[at].Holdings {
		alive[h.GetService()] = h.GetServer() != "absent" && h.GetServer() != "dead" && h.GetServer() != ""
	}
	if err := s.volumes.resume(ctx, agent); err != nil {
		return err
	}
	left, err := s.leftovers(ctx, "")
	if err != nil {
		return err
	}
	for _, l := range left {
		if l.Agent != agent {
			continue
		}
		if l.What == demote {
			// Now, not when the service's turn comes: until then two may run.
			if err := s.finish(ctx, l); err != nil {
				s.logger.Error("a former owner is not fenced yet", "service", l.Service, "host", agent, "err", err)
			}
		}
		s.reconcile(l.Service)
	}
	records, err := list[serviceRecord](ctx, s.store, servicePrefix)
	if err != nil {
		return err
	}
	for _, r := range records {
		spec, err := r.spec()
		if err != nil {
			return err
		}
		name := spec.GetName()
		owner, _, err := s.store.Owner(ctx, name)
		if errors.Is(err, cluster.ErrNotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			return err
		}
		needed := owner.Host == agent || owner.Site == all[at].Site && all[at].Kind == "edge"
		if needed && r.Phase != serviceRunning || s.replicaConcerns(spec, owner, r.Replica, all, agent) {
			s.reconcile(name)
		}
		if owner.Host != agent || r.Phase != serviceRunning || alive[name] {
			continue
		}
		if _, err := s.store.Get(ctx, activePrefix+name); err == nil {
			continue
		}
		s.logger.Warn("virtual server is not there, starting it again", "service", name, "host", agent)
		if err := s.restart(ctx, name, "its virtual server was found dead"); err != nil {
			return err
		}
	}
	return nil
}

// restart is called when the virtual server of a service was found dead at its owner's host.
func (s *services) restart(ctx context.Context, name, why string) error {
	err := update(ctx, s.store, servicePrefix+name, func(r *serviceRecord) error {
		if r.Phase == serviceRunning {
			r.Phase, r.Message = serviceStarting, why
		}
		return nil
	}, cluster.Compare{Key: activePrefix + name})
	if errors.Is(err, cluster.ErrConflict) {
		return nil // a migration has it now, and deals with what is dead
	}
	if err != nil {
		return err
	}
	s.reconcile(name)
	return nil
}
