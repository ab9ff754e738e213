package failover

import (
	"fmt"
	"slices"
)

// Wish is what an operator asks.
type Wish struct {
	Request  string // its name; empty if it has none
	To       string // the site; empty for that of the replica
	Snapshot string // to go back to; empty for the newest point
	Force    bool
}

// Decided says whether this very wish was decided before: then that is the answer.
func (s State) Decided(w Wish) (bool, error) {
	if s.Phase == Deleting {
		return false, fmt.Errorf("service %s is being deleted", s.Service)
	}
	return w.Request != "" && slices.Contains(s.Requests, w.Request), nil
}

// Candidate is who would take over.
type Candidate struct {
	Place
	// Because is why there is none, if that is known.
	Because string
	// Answers says that the agent of the present owner is connected.
	Answers bool
}

// Refuse says why the service must not be failed over to the candidate, whatever that has; nil if it may.
func (s State) Refuse(w Wish, c Candidate) error {
	switch {
	case c.Host == "":
		return fmt.Errorf("service %s has no replica that could take over%s\nhint: 'storage: {replicateTo: SITE}' in its manifest asks for one, and has to be there before the site is lost", s.Service, c.Because)
	case w.To == s.Owner.Site:
		return fmt.Errorf("service %s is at site %s already", s.Service, w.To)
	case w.To != "" && w.To != c.Site:
		return fmt.Errorf("the replica of service %s is at site %s, not at %s\nhint: godwit failover %s --to %s", s.Service, c.Site, w.To, s.Service, c.Site)
	case c.Answers && !w.Force && w.Snapshot == "":
		return fmt.Errorf("the agent of %s answers, so the service has not lost its site\nhint: 'godwit migrate %s --to %s' moves it without losing anything; --force fails it over all the same", s.Owner.Host, s.Service, c.Site)
	case s.External && !c.Answers && !w.Force:
		return fmt.Errorf("the agent of %s is out of reach, and nobody knows whether service %s still writes to its external disks from there\n"+
			"hint: make sure that %s is dead (take its power, or its way to the disks); --force says that you did", s.Owner.Host, s.Service, s.Owner.Host)
	}
	return nil
}

// Held is what the candidate has of a volume.
type Held struct {
	Volume            string
	Replica, Complete bool
}

// Unready says why the candidate cannot take over with what it has; nil if it can.
func (s State) Unready(c Place, volumes []Held) error {
	for _, v := range volumes {
		switch {
		case !v.Replica:
			return fmt.Errorf("host %s has no replica of volume %s of service %s\nhint: godwit get volumes", c.Host, v.Volume, s.Service)
		case !v.Complete:
			return fmt.Errorf("the replica of service %s at %s is incomplete: its first copy was never finished, and there is nothing to start from", s.Service, c.Host)
		}
	}
	return nil
}

// Attempt is a failover that may be decided: to whom, away from which edge, and the epochs that were given out for it, each for one
// purpose and in any order.
type Attempt struct {
	To       Place
	Edge     string // of the present owner's site
	Epoch    uint64 // the new owner's
	HostLeft uint64 // of what the old host has still to do
	EdgeLeft uint64
	Request  string
	Snapshot string
}

// Decide is the state after the failover: one transaction stores it. From then on the old owner's epoch is over, and what its host and
// its edge have to do about that is left to them.
func (s State) Decide(a Attempt) State {
	from, what := s.Owner.Place, Demote
	if s.Replica.Host == "" {
		what = RemoveAll
	}
	next := s
	next.Owner = Owner{Place: a.To, Epoch: a.Epoch}
	next.Phase, next.Message = Starting, "failed over from "+from.Site
	next.Promote, next.Restore = what == Demote, a.Snapshot
	next.Requests = append(slices.Clone(s.Requests), a.Request)
	next.Requests = next.Requests[max(0, len(next.Requests)-Remembered):]
	if what == Demote {
		next.Replica = from
	}
	next.Left = slices.DeleteFunc(slices.Clone(s.Left), func(l Leftover) bool { return l.Agent == from.Host || l.Agent == a.Edge })
	next.Left = append(next.Left,
		Leftover{Agent: from.Host, Site: from.Site, What: what, Epoch: a.HostLeft},
		Leftover{Agent: a.Edge, Site: from.Site, What: LeaveRoute, Epoch: a.EdgeLeft})
	return next
}
