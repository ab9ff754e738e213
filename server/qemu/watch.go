package qemu

import (
	"sync"

	"github.com/godwit-project/godwit/server"
)

// watcher hands statuses to one function, in order, from one goroutine, however slow it is.
type watcher struct {
	f     func(server.Status)
	wake  chan struct{}
	stop  chan struct{}
	ended chan struct{}

	mu    sync.Mutex
	queue []server.Status // guarded by mu
}

// Watch implements server.Platform. cancel must not be called from f.
func (p *Platform) Watch(f func(server.Status)) (cancel func()) {
	w := &watcher{f: f, wake: make(chan struct{}, 1), stop: make(chan struct{}), ended: make(chan struct{})}
	p.mu.Lock()
	p.watchers[w] = struct{}{}
	p.mu.Unlock()
	p.owned.Add(1)
	go func() {
		defer p.owned.Done()
		w.run(p.life.Done())
	}()
	var once sync.Once
	return func() {
		once.Do(func() {
			p.mu.Lock()
			delete(p.watchers, w)
			p.mu.Unlock()
			close(w.stop)
		})
		<-w.ended
	}
}

func (w *watcher) run(closed <-chan struct{}) {
	defer close(w.ended)
	for {
		select {
		case <-w.stop:
			return
		case <-closed:
			return
		case <-w.wake:
		}
		for s, ok := w.take(); ok; s, ok = w.take() {
			select {
			case <-w.stop:
				return
			default:
				w.f(s)
			}
		}
	}
}

func (w *watcher) take() (server.Status, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		return server.Status{}, false
	}
	s := w.queue[0]
	w.queue = w.queue[1:]
	return s, true
}

// tell queues s for all watchers.
func (p *Platform) tell(s server.Status) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for w := range p.watchers {
		w.mu.Lock()
		w.queue = append(w.queue, s)
		w.mu.Unlock()
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}
