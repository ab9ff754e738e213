package dvshost_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/godwit-project/godwit/dvs"
)

// loadSpec is what closed-loop clients do.
type loadSpec struct {
	At, Container string // where each opens a session of its own
	To            string // whom they ask
	Name          string // of the clients, with a number each
	Count         int
	// First is the place of the first client's own part of a ledger's sheet; each next one has the next.
	First int
	// Request is asked again and again, and the answers, which are numbers, are kept. "" is everything that a ledger knows.
	Request string
	// Limit is how long a call may take. 0: for as long as it takes.
	Limit time.Duration
}

// tally is what clients have seen, by client.
type tally struct {
	Steps   map[string]int
	Asked   map[string]uint64 // requests that were acknowledged
	Noted   map[string]uint64 // notifications; there is never more than one that the server has not told of
	Answers []int64
	Faults  []string // answers that are wrong
	Errors  []string // calls that failed; each was the last of its client
	Longest time.Duration
}

// load is closed-loop clients.
type load struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	sum    tally
}

// client is one of them.
type client struct {
	*load
	loadSpec
	name    string
	slot    uint64
	session *dvs.Session
	own     *dvs.Endpoint // only where there is a ledger
	room    []byte
	asked   uint64
	noted   uint64
	told    uint64 // of notifications, by the server
}

func startLoad(spec loadSpec) (*load, error) {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel, sum: tally{Steps: map[string]int{}, Asked: map[string]uint64{}, Noted: map[string]uint64{}}}
	for i := range spec.Count {
		c := &client{load: l, loadSpec: spec, name: fmt.Sprint(spec.Name, i), slot: uint64(spec.First + i)}
		var err error
		if c.session, err = dvs.Connect(ctx, spec.At, dvs.Options{Container: spec.Container, Program: "load"}); err == nil && spec.Request == "" {
			c.own, err = c.session.Bind(ctx, c.name, dvs.BindOptions{})
		}
		if err != nil {
			l.rest()
			return nil, err
		}
		l.mu.Lock()
		l.sum.Steps[c.name] = 0
		l.mu.Unlock()
		l.wg.Go(func() {
			defer c.session.Close()
			c.run(ctx)
		})
	}
	return l, nil
}

// rest has the clients end when what they are at has ended, and returns what they have seen.
func (l *load) rest() tally {
	l.cancel()
	l.wg.Wait()
	return l.tally()
}

func (l *load) tally() tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	y := l.sum
	y.Steps, y.Asked, y.Noted = maps.Clone(y.Steps), maps.Clone(y.Asked), maps.Clone(y.Noted)
	y.Answers, y.Faults, y.Errors = slices.Clone(y.Answers), slices.Clone(y.Faults), slices.Clone(y.Errors)
	return y
}

// fault notes an answer that is wrong.
func (c *client) fault(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sum.Faults = append(c.sum.Faults, c.name+": "+fmt.Sprintf(format, args...))
}

// run makes one call after the other until ctx ends or a call fails.
func (c *client) run(ctx context.Context) {
	if c.own != nil {
		c.room = make([]byte, bookSize)
		c.own.Register("room", c.room, dvs.Access{})
	}
	for step := 0; ctx.Err() == nil; step++ {
		began := time.Now()
		err := c.step(step)
		c.mu.Lock()
		c.sum.Longest = max(c.sum.Longest, time.Since(began))
		if err != nil {
			c.sum.Errors = append(c.sum.Errors, fmt.Sprintf("%s, step %d: %v", c.name, step, err))
		}
		c.sum.Steps[c.name]++
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (c *client) step(step int) error {
	ctx := context.Background()
	if c.Limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Limit)
		defer cancel()
	}
	switch {
	case c.Request != "":
		return c.number(ctx)
	case step%5 == 0:
		return c.send(ctx)
	case step%5 == 2:
		return c.notify()
	case step%5 == 4:
		return c.copies(ctx, step)
	default:
		return c.ask(ctx)
	}
}

// number asks for a number.
func (c *client) number(ctx context.Context) error {
	b, err := c.session.SendRec(ctx, c.To, []byte(c.Request))
	if err != nil {
		return err
	}
	n, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil {
		c.fault("%v", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sum.Answers = append(c.sum.Answers, n)
	return nil
}

// acknowledged counts a request that the server has, or an attempt of it.
func (c *client) acknowledged() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sum.Asked[c.name] = c.asked
}

func (c *client) send(ctx context.Context) error {
	c.asked++
	err := c.own.Send(ctx, c.To, fmt.Append(nil, c.name, " ", c.asked))
	if err == nil {
		c.acknowledged()
	}
	return err
}

// ask is told the number of its request, and how many of its notifications have come.
func (c *client) ask(ctx context.Context) error {
	c.asked++
	b, err := c.own.SendRec(ctx, c.To, fmt.Append(nil, c.name, " ", c.asked))
	if err != nil {
		return err
	}
	c.acknowledged()
	var name string
	var asked, told uint64
	if _, err := fmt.Sscan(string(b), &name, &asked, &told); err != nil || name != c.name || asked != c.asked || told > c.noted || told < c.told {
		c.fault("request %d after %d notifications, of which %d were told, is answered %q", c.asked, c.noted, c.told, b)
	}
	c.told = told
	return nil
}

// notify does so if the last one has come: so none may be missing in the end, and none is one with another.
func (c *client) notify() error {
	if c.told < c.noted {
		return nil
	}
	c.noted++
	c.mu.Lock()
	c.sum.Noted[c.name] = c.noted
	c.mu.Unlock()
	return c.own.Notify(c.To)
}

// copies reads the server's book, writes something new to the client's own part of its sheet, and reads that again.
func (c *client) copies(ctx context.Context, step int) error {
	own := dvs.Place{Endpoint: c.name, Buffer: "room"}
	if err := c.own.Copy(ctx, own, dvs.Place{Endpoint: c.To, Buffer: "book"}, bookSize); err != nil {
		return fmt.Errorf("read the book: %w", err)
	}
	if !bytes.Equal(c.room, theBook) {
		c.fault("the book has another content")
	}
	text := bytes.Repeat(fmt.Appendf(nil, "%s writes %d. ", c.name, step), slotSize)[:slotSize]
	copy(c.room, text)
	part := dvs.Place{Endpoint: c.To, Buffer: "sheet", Offset: c.slot * slotSize}
	if err := c.own.Copy(ctx, part, own, slotSize); err != nil {
		return fmt.Errorf("write to the sheet: %w", err)
	}
	clear(c.room[:slotSize])
	if err := c.own.Copy(ctx, own, part, slotSize); err != nil {
		return fmt.Errorf("read the sheet: %w", err)
	}
	if !bytes.Equal(c.room[:slotSize], text) {
		c.fault("the sheet has %.40q, not %.40q", c.room, text)
	}
	return nil
}
