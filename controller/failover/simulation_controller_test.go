package failover_test

import (
	"errors"
	"iter"
	"slices"

	"github.com/godwit-project/godwit/controller/failover"
)

// The model of package controller: what its functions do around this package, in the same order, and with the same conditions when they
// write. Each job is cut at every access to the store and at every message: there others come between, or it dies.

type controller struct {
	id, life int
	jobs     []*job
	settling bool
	again    bool
}

// job is one goroutine of a controller.
type job struct {
	next func() (struct{}, bool)
	stop func()
	cut  func(struct{}) bool
}

var errDied = errors.New("the controller died")

func (c *controller) spawn(f func(j *job)) *job {
	j := new(job)
	j.next, j.stop = iter.Pull(func(cut func(struct{}) bool) {
		defer func() {
			if why := recover(); why != nil && why != errDied {
				panic(why)
			}
		}()
		j.cut = cut
		f(j)
	})
	c.jobs = append(c.jobs, j)
	return j
}

// pause is a place where others may come between, or the controller dies.
func (j *job) pause() {
	if !j.cut(struct{}{}) {
		panic(errDied)
	}
}

func (c *controller) work(w *world) {
	if len(c.jobs) == 0 {
		return
	}
	c.workOn(c.jobs[w.rng.IntN(len(c.jobs))])
}

func (c *controller) workOn(j *job) {
	if _, more := j.next(); !more {
		c.jobs = slices.DeleteFunc(c.jobs, func(o *job) bool { return o == j })
	}
}

func (c *controller) die() {
	for _, j := range c.jobs {
		j.stop()
	}
	c.jobs, c.settling, c.again = nil, false, false
}

// leads is what the guard compares.
func (c *controller) leads(w *world) bool {
	return w.store.leader == c.id && w.store.leaderLife == c.life
}

func (c *controller) there(w *world) func(string) bool {
	return func(name string) bool {
		a := w.agent(name)
		return a.session != nil && a.session.life == c.life
	}
}

// epoch gives one out, to who leads.
func (c *controller) epoch(w *world, j *job) (uint64, error) {
	j.pause()
	if !w.broken.noGuard && !c.leads(w) {
		return 0, errDeposed
	}
	w.store.counter++
	return w.store.counter, nil
}

// ask hands a task to an agent and waits for the answer, as long as the session lasts.
func (c *controller) ask(w *world, j *job, t call) error {
	j.pause()
	if !c.there(w)(t.agent.name) {
		return errDown
	}
	t.session = t.agent.session
	sent := &t
	w.bag = append(w.bag, sent)
	for !sent.answered {
		j.pause()
		if t.agent.session != t.session {
			return errDown
		}
	}
	return sent.err
}

// failover is migrations.failover, for one operator.
func (c *controller) failover(w *world, o *operator) *job {
	wish := o.wish
	return c.spawn(func(j *job) {
		err := c.decide(w, j, wish)
		w.note("%s to %q, force %v: %v", wish.Request, wish.To, wish.Force, err)
		if errors.Is(err, errConflict) || errors.Is(err, errDeposed) {
			w.count.conflicts++
			o.job = nil // asked again
			return
		}
		if err != nil {
			w.count.refused++
		}
		if o.wish == wish {
			o.asking, o.job = false, nil
		}
		if err == nil {
			c.reconcile(w)
		}
	})
}

var (
	errConflict = errors.New("changed by somebody else")
	errDeposed  = errors.New("it leads no more")
)

func (c *controller) decide(w *world, j *job, wish failover.Wish) error {
	j.pause()
	s, record, owner := w.store.state, w.store.record, w.store.owner
	if over, err := s.Decided(wish); (over || err != nil) && !w.broken.decideTwice {
		if w.count.again++; w.decisions[wish.Request] == 0 {
			return w.violate("%s was answered, and never decided", wish.Request)
		}
		return err
	}
	j.pause()
	to := s.Replica
	if w.external {
		if wish.To == "" || wish.To == s.Owner.Site {
			return errors.New("say where it is to run")
		}
		to = w.agent("host-" + wish.To).place()
	}
	answers := c.there(w)(s.Owner.Host)
	if err := s.Refuse(wish, failover.Candidate{Place: to, Answers: answers}); err != nil {
		return err
	}
	if !c.there(w)(to.Host) || !c.there(w)("edge-"+to.Site) {
		return errDown
	}
	if !w.external {
		told := w.agent(to.Host).told
		if err := s.Unready(to, []failover.Held{{Volume: "root", Replica: told.role == standby, Complete: told.complete}}); err != nil {
			return err
		}
	}
	a := failover.Attempt{To: to, Edge: "edge-" + s.Owner.Site, Request: wish.Request, Snapshot: wish.Snapshot}
	for _, epoch := range []*uint64{&a.HostLeft, &a.EdgeLeft, &a.Epoch} {
		var err error
		if *epoch, err = c.epoch(w, j); err != nil {
			return err
		}
	}
	if w.broken.epochTwice {
		a.Epoch = s.Owner.Epoch
	}
	s.Left = nil
	next := s.Decide(a)
	j.pause()
	if !w.broken.noGuard && !c.leads(w) {
		return errDeposed
	}
	if (w.store.record != record || w.store.owner != owner) && !w.broken.noCAS {
		return errConflict
	}
	if !c.leads(w) {
		return w.violate("controller %d decides in life %d, and leads no more", c.id, c.life)
	}
	w.decided(s, next, wish, answers)
	j.pause() // the answer is on its way
	return nil
}

// decided is the transaction.
func (w *world) decided(was, next failover.State, wish failover.Wish, answers bool) {
	if w.broken.noFence {
		next.Left = next.Left[1:]
	}
	if w.broken.removed {
		next.Left[0].What = failover.RemoveAll
	}
	left := slices.DeleteFunc(slices.Clone(w.store.state.Left), func(l failover.Leftover) bool {
		return slices.ContainsFunc(next.Left, func(n failover.Leftover) bool { return n.Agent == l.Agent })
	})
	next.Left = append(left, next.Left...)
	w.store.state = next
	w.store.record++
	w.store.owner++
	w.count.decided++
	w.hot = true
	w.note("DECIDED %s: %s to %s, epoch %d, left %v", wish.Request, was.Owner.Host, next.Owner.Host, next.Owner.Epoch, next.Left)
	if was, twice := w.decisions[wish.Request]; twice {
		_ = w.violate("%s was decided under epoch %d, and is decided again", wish.Request, was)
	}
	if host, twice := w.owners[next.Owner.Epoch]; twice {
		_ = w.violate("epoch %d was given to %s, and is given to %s", next.Owner.Epoch, host, next.Owner.Host)
	}
	w.decisions[wish.Request], w.owners[next.Owner.Epoch] = next.Owner.Epoch, next.Owner.Host
	for _, a := range w.agents {
		a.attended = nil
	}
	if old := w.agent(was.Owner.Host); answers {
		old.attended = old.session
	}
}

// reconcile gives the service its turn: one at a time, and once more if it is asked for meanwhile.
func (c *controller) reconcile(w *world) {
	if c.again = true; c.settling {
		return
	}
	c.settling = true
	c.spawn(func(j *job) {
		for c.again {
			c.again = false
			c.settle(w, j)
		}
		c.settling = false
	})
}

// settle is services.settle.
func (c *controller) settle(w *world, j *job) {
	var turn failover.Turn
	for {
		s := c.standing(w, j)
		seen := s
		if w.broken.startFirst {
			seen.Left = nil
		}
		var do failover.Command
		turn, do = turn.Next(seen, failover.Known{There: c.there(w), Host: s.Owner.Host, Edge: "edge-" + s.Owner.Site})
		var err error
		switch do.Do {
		case failover.Finish:
			err = c.finish(w, j, do.Left)
		case failover.Start:
			err = c.ask(w, j, call{agent: w.agent(do.Agent), kind: startTask, epoch: do.Epoch, promote: s.Promote})
			if errors.Is(err, errDown) {
				continue
			}
		case failover.Note:
			if c.noteStart(w, j, do) != nil || do.Err != nil {
				return
			}
		case failover.Look:
			if !w.broken.neverLooks {
				c.lookAt(w, w.agent(do.Agent))
			}
		case failover.Rest:
			if s.Phase == failover.Running && s.Replica.Host != "" {
				c.replicate(w, j)
			}
			return
		}
		turn = turn.After(do, err)
	}
}

// standing is services.standing.
func (c *controller) standing(w *world, j *job) failover.State {
	for {
		j.pause()
		owner, revision := w.store.state.Owner, w.store.owner
		left := w.store.state.Left
		j.pause()
		s := w.store.state
		s.Owner = owner
		j.pause()
		s.Left = w.store.state.Left
		j.pause()
		if w.broken.torn {
			s.Owner, s.Left = w.store.state.Owner, left
			return s
		}
		if w.store.owner == revision {
			return s
		}
	}
}

func (c *controller) noteStart(w *world, j *job, do failover.Command) error {
	j.pause()
	owner := w.store.owner
	epoch := do.Epoch
	if w.broken.staleNote {
		epoch = w.store.state.Owner.Epoch
	}
	for {
		j.pause()
		read, record := w.store.state, w.store.record
		next, ended := read.Ended(epoch, do.Err)
		if !ended {
			w.count.overtaken++
			return nil
		}
		j.pause()
		if !c.leads(w) {
			w.count.overtaken++
			return errDeposed
		}
		if w.store.owner != owner && !w.broken.staleNote {
			w.count.overtaken++
			return nil
		}
		if w.store.record == record {
			next.Left = w.store.state.Left
			w.store.state = next
			w.store.record++
			w.note("the service is %s: %s", next.Phase, next.Message)
			return nil
		}
	}
}

// lookAt is services.lookAt, when an agent has connected.
func (c *controller) lookAt(w *world, a *agent) {
	c.spawn(func(j *job) {
		alive := a.runs
		j.pause()
		for _, l := range w.store.state.Left {
			if l.Agent == a.name && l.What == failover.Demote {
				_ = c.finish(w, j, l)
			}
		}
		c.reconcile(w)
		for {
			j.pause()
			s, record := w.store.state, w.store.record
			if a.edge || s.Owner.Host != a.name || s.Phase != failover.Running || alive {
				return
			}
			j.pause()
			if !c.leads(w) {
				return
			}
			if w.store.record == record {
				w.store.state.Phase, w.store.state.Message = failover.Starting, "its virtual server was found dead"
				w.store.record++
				c.reconcile(w)
				return
			}
		}
	})
}
