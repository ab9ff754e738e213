package demo

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/godwit-project/godwit/agent/dvshost"
	"github.com/godwit-project/godwit/dvs"
)

// dvsAsk bounds one request, in time.
const dvsAsk = 30 * time.Second

// dvsAsker is one client: it adds 1 to a number of its own, again and again, so it knows what each answer must be.
type dvsAsker struct {
	session *dvs.Session
	name    string // of the service
	key     string

	sum      int64 // what the service has acknowledged
	requests uint64
	errors   uint64
	longest  time.Duration
}

// dvsAskers are all clients.
type dvsAskers struct {
	all    []*dvsAsker
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// startDVSClients starts n clients, in turn on the nodes at those sockets.
func startDVSClients(ctx context.Context, name string, n int, sockets ...string) (*dvsAskers, error) {
	c := &dvsAskers{}
	ctx, c.cancel = context.WithCancel(ctx)
	for i := range n {
		s, err := dvs.Connect(ctx, sockets[i%len(sockets)], dvs.Options{Container: dvsContainer})
		if err != nil {
			c.stop()
			return nil, err
		}
		c.all = append(c.all, &dvsAsker{session: s, name: name, key: fmt.Sprint("client", i)})
	}
	for _, one := range c.all {
		c.wg.Go(func() { one.run(ctx) })
	}
	return c, nil
}

func (c *dvsAskers) stop() {
	c.cancel()
	c.wg.Wait()
	for _, one := range c.all {
		one.session.Close()
	}
}

// run asks until ctx ends. A request that is under way then is waited for.
func (a *dvsAsker) run(ctx context.Context) {
	for pause(ctx, dvsPause) == nil {
		asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), dvsAsk)
		begin := time.Now()
		answer, err := a.session.SendRec(asking, a.name, []byte("add "+a.key+" 1"))
		cancel()
		a.longest = max(a.longest, time.Since(begin))
		a.requests++
		if sum, ok := dvsNumber(answer); err != nil || !ok || sum != a.sum+1 {
			a.errors++
		}
		if err == nil {
			a.sum++
		}
	}
}

// dvsNumber reads the answer to add and get.
func dvsNumber(answer []byte) (int64, bool) {
	text, ok := strings.CutPrefix(string(answer), "ok ")
	n, err := strconv.ParseInt(text, 10, 64)
	return n, ok && err == nil
}

// report stops the clients and compares what they know with what the service has.
func (c *dvsAskers) report(ctx context.Context, node *dvshost.Client) *DVSReport {
	c.stop()
	r := &DVSReport{}
	for _, one := range c.all {
		r.Requests += one.requests
		r.Errors += one.errors
		r.LongestWaitMs = max(r.LongestWaitMs, float64(one.longest.Microseconds())/1000)
		answer, err := node.Call(ctx, dvsContainer, one.name, []byte("get "+one.key), dvsAsk.String())
		has, ok := dvsNumber(answer)
		switch {
		case err != nil || !ok && one.sum > 0:
			r.Lost += uint64(one.sum)
		case has < one.sum:
			r.Lost += uint64(one.sum - has)
		case has > one.sum:
			r.Duplicates += uint64(has - one.sum)
		}
	}
	return r
}
