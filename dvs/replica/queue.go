package replica

import "sync"

// queue passes values from any goroutines to one, in order, and never blocks who puts.
type queue[T any] struct {
	mu     sync.Mutex
	wake   *sync.Cond
	all    []T
	closed bool
}

func (q *queue[T]) open() { q.wake = sync.NewCond(&q.mu) }

func (q *queue[T]) put(v T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.all = append(q.all, v)
	q.wake.Signal()
}

func (q *queue[T]) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.all)
}

func (q *queue[T]) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.wake.Broadcast()
}

// take waits for the next; false when the queue is closed, whatever is left.
func (q *queue[T]) take() (v T, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.all) == 0 && !q.closed {
		q.wake.Wait()
	}
	if q.closed {
		return v, false
	}
	v = q.all[0]
	var none T
	q.all[0] = none
	q.all = q.all[1:]
	return v, true
}

// drain gives each to f until the queue is closed.
func (q *queue[T]) drain(f func(T)) {
	for {
		v, ok := q.take()
		if !ok {
			return
		}
		f(v)
	}
}
