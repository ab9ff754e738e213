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
// keeping any of it. A user who has something to say meanwhile POSTs: then both hear in their answer what the other's request holds,
// as it comes, until either ends its own. Whoever comes first waits for the other; names are drawn anew for each.
type transfers struct {
	logger *slog.Logger

	mu   sync.Mutex
	open map[string]*transfer
}

type transfer struct {
	reader *io.PipeReader
	writer *io.PipeWriter
	back   *io.PipeReader // what a user who POSTs says; nil until taken, or where nothing is said
	taken  chan struct{}  // closed when the user is there
	users  int

	user, agent sync.Once // there is one of each
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
	role := map[string]identity.Role{http.MethodGet: identity.Operator, http.MethodPost: identity.Operator, http.MethodPut: identity.Agent}[r.Method]
	if role == "" {
		http.Error(w, "use GET, POST or PUT", http.StatusMethodNotAllowed)
		return
	}
	if _, err := requireRole(r.Context(), role); err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	x, leave := t.enter(name)
	defer leave()
	var back *io.PipeReader // what a user who POSTs says, and said, where he says it
	var said *io.PipeWriter
	if r.Method == http.MethodPost {
		back, said = io.Pipe()
	}
	if !x.begin(r.Method == http.MethodPut, back) {
		http.Error(w, "somebody has this transfer already", http.StatusConflict)
		return
	}
	switch r.Method {
	case http.MethodPut:
		if err := x.put(w, r); err != nil {
			t.logger.Warn("a transfer broke", "transfer", name, "err", err)
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
	case http.MethodPost:
		converse(w, r, x.reader, said)
	default:
		if err := x.get(w, r); err != nil {
			panic(http.ErrAbortHandler) // so that the user does not take a half for the whole
		}
	}
}

// begin says whether nobody has come before as what the caller is: two would have a part each, and take it for the whole.
func (x *transfer) begin(agent bool, back *io.PipeReader) (first bool) {
	if agent {
		x.agent.Do(func() { first = true })
		return first
	}
	x.user.Do(func() {
		first, x.back = true, back
		close(x.taken)
	})
	return first
}

// put copies the agent's stream, once somebody takes it.
func (x *transfer) put(w http.ResponseWriter, r *http.Request) (err error) {
	timer := time.NewTimer(takenWithin)
	defer timer.Stop()
	select {
	case <-x.taken:
		if x.back != nil {
			converse(w, r, x.back, x.writer)
			return nil
		}
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
	stop := context.AfterFunc(r.Context(), func() { _ = x.reader.CloseWithError(errHalf) })
	defer stop()
	_, err := io.Copy(w, x.reader)
	_ = x.reader.CloseWithError(errHalf) // never fails: whoever still sends is told
	return err
}

// converse answers with what comes from one pipe, as it comes, and puts what the request holds into the other, until either ends.
// It wants HTTP/2: a request's body is read on after its answer has begun.
func converse(w http.ResponseWriter, r *http.Request, from *io.PipeReader, to *io.PipeWriter) {
	gone := func() {
		_ = from.CloseWithError(errHalf) // these never fail
		_ = to.CloseWithError(errHalf)
	}
	defer context.AfterFunc(r.Context(), gone)()
	said := make(chan struct{})
	go func() {
		defer close(said)
		_, err := io.Copy(to, r.Body)
		_ = to.CloseWithError(err)
	}()
	answer := &unbuffered{w, http.NewResponseController(w)}
	if answer.flush.Flush() == nil { // the head, so that the other begins
		_, _ = io.Copy(answer, from) // whoever is left learns of the end, which is all that there is to say
	}
	gone()
	_ = r.Body.Close()
	<-said
}

// unbuffered sends at once whatever is written.
type unbuffered struct {
	w     io.Writer
	flush *http.ResponseController
}

func (u *unbuffered) Write(p []byte) (int, error) {
	n, err := u.w.Write(p)
	if err != nil {
		return n, err
	}
	return n, u.flush.Flush()
}
