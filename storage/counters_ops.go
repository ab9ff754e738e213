package storage

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/godwit-project/godwit/storage/nbd"
)

// LatencyBounds are the upper bounds of the buckets in [Counted].Buckets; the last bucket has none.
var LatencyBounds = [...]time.Duration{
	50 * time.Microsecond, 100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 5 * time.Second,
}

// Counted is what clients of a volume have asked for, of one kind, since the store was opened.
type Counted struct {
	// Requests were answered, Errors of them with an error.
	Requests, Errors uint64
	// Bytes of those without an error; 0 for flushes.
	Bytes uint64
	// Time that all of them took together, Buckets how many took no longer than each of LatencyBounds, and longer than the
	// bound before.
	Time    time.Duration
	Buckets [len(LatencyBounds) + 1]uint64
}

// Counters are what clients of a volume have asked for. Discards are trims and writes of zeroes.
type Counters struct {
	Reads, Writes, Discards, Flushes Counted
}

// Counters is a snapshot.
func (v *Volume) Counters() Counters {
	return Counters{Reads: v.counts.reads.view(), Writes: v.counts.writes.view(), Discards: v.counts.discards.view(), Flushes: v.counts.flushes.view()}
}

// requestCounts counts as requests are answered.
type requestCounts struct{ reads, writes, discards, flushes requestCount }

type requestCount struct {
	errors, bytes atomic.Uint64
	time          atomic.Int64
	buckets       [len(LatencyBounds) + 1]atomic.Uint64
}

// add counts a request that began then. One that was not answered is none.
func (c *requestCount) add(began time.Time, bytes int64, err error) {
	if errors.Is(err, nbd.ErrHangUp) {
		return
	}
	took := time.Since(began)
	at := 0
	for at < len(LatencyBounds) && took > LatencyBounds[at] {
		at++
	}
	c.buckets[at].Add(1)
	c.time.Add(int64(took))
	if err != nil {
		c.errors.Add(1)
		return
	}
	c.bytes.Add(uint64(bytes))
}

func (c *requestCount) view() Counted {
	out := Counted{Errors: c.errors.Load(), Bytes: c.bytes.Load(), Time: time.Duration(c.time.Load())}
	for i := range c.buckets {
		out.Buckets[i] = c.buckets[i].Load()
		out.Requests += out.Buckets[i]
	}
	return out
}

// countedClient is a client's view of a volume whose requests are counted.
type countedClient struct {
	client
	counts *requestCounts
}

var (
	_ nbd.Backend = countedClient{}
	_ nbd.Prompt  = countedClient{}
)

func (c countedClient) ReadAt(ctx context.Context, p []byte, off int64) error {
	began := time.Now()
	err := c.client.ReadAt(ctx, p, off)
	c.counts.reads.add(began, int64(len(p)), err)
	return err
}

func (c countedClient) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	began := time.Now()
	err := c.client.WriteAt(ctx, p, off, fua)
	c.counts.writes.add(began, int64(len(p)), err)
	return err
}

func (c countedClient) Trim(ctx context.Context, off, length int64, fua bool) error {
	began := time.Now()
	err := c.client.Trim(ctx, off, length, fua)
	c.counts.discards.add(began, length, err)
	return err
}

func (c countedClient) Zero(ctx context.Context, off, length int64, allocate, fua bool) error {
	began := time.Now()
	err := c.client.Zero(ctx, off, length, allocate, fua)
	c.counts.discards.add(began, length, err)
	return err
}

func (c countedClient) Flush(ctx context.Context) error {
	began := time.Now()
	err := c.client.Flush(ctx)
	c.counts.flushes.add(began, 0, err)
	return err
}

func (c countedClient) TryReadAt(p []byte, off int64) (done bool, err error) {
	began := time.Now()
	if done, err = c.client.TryReadAt(p, off); done {
		c.counts.reads.add(began, int64(len(p)), err)
	}
	return done, err
}

func (c countedClient) TryWriteAt(p []byte, off int64) (done bool, err error) {
	began := time.Now()
	if done, err = c.client.tryWriteAt(began, p, off); done {
		c.counts.writes.add(began, int64(len(p)), err)
	}
	return done, err
}
