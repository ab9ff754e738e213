package controller

import (
	"context"
	"errors"
	"slices"
	"time"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/cluster"
	"github.com/godwit-project/godwit/controller/failover"
)

// standing is what the store has of a service at one moment.
type standing struct {
	failover.State
	record serviceRecord
	spec   *pb.ServiceSpec
	left   []leftoverRecord
}

// stateOf is what a failover is decided by; leftovers are not in it.
func stateOf(r serviceRecord, owner cluster.Owner) failover.State {
	return failover.State{
		Service: owner.Service,
		Owner:   failover.Owner{Place: failover.Place{Site: owner.Site, Host: owner.Host}, Epoch: owner.Epoch},
		Phase:   r.Phase, Message: r.Message, Replica: failover.Place{Site: r.Replica.Site, Host: r.Replica.Host}, Promote: r.Promote, Restore: r.Restore,
	}
}

// standing reads it, as it was at one moment: every failover writes the owner, so that nobody was decided as long as that is the same. A
// service that is no more may have left something.
func (s *services) standing(ctx context.Context, name string) (standing, error) {
	for {
		before, revision, err := s.owner(ctx, name)
		if err != nil {
			return standing{}, err
		}
		now, err := s.standingUnder(ctx, name, before)
		if err != nil {
			return now, err
		}
		_, after, err := s.owner(ctx, name)
		if err != nil || after == revision {
			return now, err
		}
	}
}

// owner is that of a service, or nobody at revision 0.
func (s *services) owner(ctx context.Context, name string) (cluster.Owner, int64, error) {
	owner, revision, err := s.store.Owner(ctx, name)
	if errors.Is(err, cluster.ErrNotFound) {
		return cluster.Owner{Service: name}, 0, nil
	}
	return owner, revision, err
}

func (s *services) standingUnder(ctx context.Context, name string, owner cluster.Owner) (standing, error) {
	now := standing{spec: new(pb.ServiceSpec)}
	_, err := load(ctx, s.store, servicePrefix+name, &now.record)
	if err == nil {
		now.spec, err = now.record.spec()
	}
	if err != nil && !errors.Is(err, cluster.ErrNotFound) {
		return now, err
	}
	if now.left, err = s.leftovers(ctx, name); err != nil {
		return now, err
	}
	now.State = stateOf(now.record, owner)
	now.External = len(externalKeys(now.spec)) > 0
	for _, l := range now.left {
		now.Left = append(now.Left, l.left())
	}
	return now, nil
}

// settle starts what is to start and removes what is to go: it does what package failover says, one command after the other.
func (s *services) settle(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var turn failover.Turn
	for {
		now, err := s.standing(ctx, name)
		if err != nil {
			return err
		}
		known := failover.Known{There: s.agents.hasSession, Host: now.Owner.Host}
		at := place{}
		if now.Phase == serviceStarting || now.Phase == serviceFailed {
			at, known.Trouble = s.placeOf(ctx, now.Owner.Site, now.Owner.Host)
			known.Edge = at.Edge
		}
		var c failover.Command
		turn, c = turn.Next(now.State, known)
		switch c.Do {
		case failover.Finish:
			if err = s.finish(ctx, now.leftover(c)); err != nil {
				s.logger.Warn("something of a service is left at an agent, to be dealt with later", "service", name, "err", err)
			}
		case failover.Start:
			if err = s.agents.callOnce(ctx, c.Agent, startTask(now, at)); errors.Is(err, errAgentDown) {
				if err := pause(ctx, err); err != nil {
					return err
				}
				continue // it is asked again, unless somebody else is the owner by then
			}
		case failover.Note:
			if err := errors.Join(c.Err, s.noteStart(ctx, name, c)); err != nil {
				return err
			}
		case failover.Look:
			s.lookAgain(c.Agent)
		case failover.Rest:
			return s.settled(ctx, name, now)
		}
		turn = turn.After(c, err)
	}
}

func (n standing) leftover(c failover.Command) leftoverRecord {
	return n.left[slices.IndexFunc(n.left, func(l leftoverRecord) bool { return l.Epoch == c.Left.Epoch })]
}

func startTask(now standing, at place) *pb.SessionResponse {
	return &pb.SessionResponse{Task: &pb.SessionResponse_Start{Start: &pb.StartService{
		Service: now.spec, Epoch: now.Owner.Epoch, Place: at.proto(), Promote: now.Promote, Restore: now.Restore,
		Restart: now.record.Restart, Refill: now.record.Refill,
	}}}
}

// pause waits a moment for an agent that is down; it returns why when ctx ends meanwhile.
func pause(ctx context.Context, why error) error {
	const again = 300 * time.Millisecond
	select {
	case <-time.After(again):
		return nil
	case <-ctx.Done():
		return errors.Join(why, ctx.Err())
	}
}

// noteStart stores what became of a start, unless the service has another owner by now. A controller that leads no more cannot: the leader
// may know that what was started is dead already.
func (s *services) noteStart(ctx context.Context, name string, c failover.Command) error {
	owner, rev, err := s.store.Owner(ctx, name)
	if err != nil {
		return err
	}
	ended := false
	err = update(ctx, s.store, servicePrefix+name, func(r *serviceRecord) error {
		var next failover.State
		if next, ended = stateOf(*r, owner).Ended(c.Epoch, c.Err); !ended {
			return nil
		}
		r.Phase, r.Message, r.Promote, r.Restore = next.Phase, next.Message, next.Promote, next.Restore
		if c.Err == nil {
			r.Restart, r.Refill = false, nil
		}
		return nil
	}, cluster.Compare{Key: cluster.OwnerKey(name), Revision: rev})
	switch {
	case errors.Is(err, cluster.ErrConflict):
		return nil
	case err == nil && ended && c.Err == nil:
		s.logger.Info("service runs", "service", name, "site", owner.Site, "host", owner.Host, "epoch", owner.Epoch)
	}
	return err
}

// settled does what is to be done of a service that runs, or is to go.
func (s *services) settled(ctx context.Context, name string, now standing) error {
	switch now.Phase {
	case serviceRunning:
		return s.replicate(ctx, name)
	case serviceDeleting:
		return s.remove(ctx, now.spec, now.record)
	}
	return nil
}
