package controller

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/godwit-project/godwit/api"
	"github.com/godwit-project/godwit/cluster/identity"
)

// transfers pass what an agent sends (PUT /transfers/NAME) on to the user who asked for it (GET of the same name), without
// keeping any of it. Whoever comes first waits for the other; names are drawn anew for each.
type transfers struct {
	logger *slog.Logger

	mu   sync.Mutex
	open map[string]*transfer
}

type transfer struct {
	reader *io.PipeReader
	writer *io.PipeWriter
	taken  chan struct{} // closed when the user is there
	once   sync.Once
	users  int
}

// takenWithin is how long an agent waits for the user, who asked for it a moment ago.
const takenWithin = 30 * time.Second

func newTransfers(logger *slog.Logger) *transfers {
	return &transfers{logger: logger, open: make(map[string]*transfer)}
}

// enter finds or makes the transfer of that name; leave forgets it when nobody uses it any more.
func (t *transfers) enter(name string) (x *transfer, leave func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	x = t.open[name]
	if x == nil {
		x = &transfer{taken: make(chan struct{})}
		x.reader, x.writer = io.Pipe()
		t.open[name] = x
	}
	x.users++
	return x, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if x.users--; x.users == 0 {
			delete(t.open, name)
		}
	}
}

// errHalf is what one side learns when the other has gone.
var errHalf = errors.New("the other side of the transfer has gone")

// ServeHTTP implements http.Handler.
func (t *transfers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, api.TransferPath)
	if !api.IsTransferName(name) {
		http.Error(w, "not the name of a transfer: want 32 hexadecimal digits", http.StatusBadRequest)
		return
	}
	role := map[string]identity.Role{http.MethodGet: identity.Operator, http.MethodPut: identity.Agent}[r.Method]
	if role == "" {
		http.Error(w, "use GET or PUT", http.StatusMethodNotAllowed)
		return
	}
	if _, err := requireRole(r.Context(), role); err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	x, leave := t.enter(name)
	defer leave()
	if r.Method == http.MethodPut {
		err := x.put(r)
		if err != nil {
			t.logger.Warn("a transfer broke", "transfer", name, "err", err)
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
		return
	}
	if err := x.get(w, r); err != nil {
		panic(http.ErrAbortHandler) // so that the user does not take a half for the whole
	}
}

// put copies the agent's stream, once somebody takes it.
func (x *transfer) put(r *http.Request) (err error) {
	timer := time.NewTimer(takenWithin)
	defer timer.Stop()
	select {
	case <-x.taken:
		_, err = io.Copy(x.writer, r.Body)
	case <-timer.C:
		err = errHalf
	case <-r.Context().Done():
		err = r.Context().Err()
	}
	_ = x.writer.CloseWithError(err) // never fails; nil is the end
	return err
}

// get passes it on to the user.
func (x *transfer) get(w io.Writer, r *http.Request) error {
	x.once.Do(func() { close(x.taken) })
	stop := context.AfterFunc(r.Context(), func() { _ = x.reader.CloseWithError(errHalf) })
	defer stop()
	_, err := io.Copy(w, x.reader)
	_ = x.reader.CloseWithError(errHalf) // never fails: whoever still sends is told
	return err
}
