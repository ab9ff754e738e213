package dvshost

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/node"
	"github.com/godwit-project/godwit/dvs/replica"
	"github.com/godwit-project/godwit/server/process"
)

// Limits of what is taken in, in bytes.
const (
	maxJSON   = 1 << 20
	maxPages  = 8 << 20
	maxUpload = 64 << 20
)

// Handler serves what a person may ask, as JSON over HTTP:
//
//	GET  /v1/ps, /v1/endpoints, /v1/links, /v1/stats
//	POST /v1/run?container=&name=&memory=&time=    the module; with mode= and nodes=, replicated
//	POST /v1/call?container=&name=&timeout=        the request; the answer is the reply
//	POST /v1/migrate, /v1/drain, /v1/stop          MoveRequest, DrainRequest, MoveRequest
//	GET  /v1/moves                                 those that are not over
//	POST /v1/abort                                 AbortRequest
func (h *Host) Handler() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /v1/ps", read(func(context.Context) any { return orEmpty(h.List()) }))
	m.HandleFunc("GET /v1/endpoints", read(func(context.Context) any { return orEmpty(h.Endpoints()) }))
	m.HandleFunc("GET /v1/links", read(func(ctx context.Context) any { return orEmpty(h.Links(ctx)) }))
	m.HandleFunc("GET /v1/stats", read(func(context.Context) any { return h.Stats() }))
	m.HandleFunc("POST /v1/run", h.handleRun)
	m.HandleFunc("POST /v1/call", h.handleCall)
	m.HandleFunc("POST /v1/native", asked(func(ctx context.Context, s NativeSpec) (any, error) { return struct{}{}, h.RunNative(ctx, s) }))
	m.HandleFunc("POST /v1/migrate", asked(func(ctx context.Context, r MoveRequest) (any, error) {
		return h.Move(ctx, r.Container, r.Name, r.To, r.Frozen)
	}))
	m.HandleFunc("POST /v1/drain", asked(func(ctx context.Context, r DrainRequest) (any, error) {
		moved, err := h.Drain(ctx, r.To, r.Frozen)
		return DrainInfo{Moved: orEmpty(moved), Err: text(err)}, nil
	}))
	m.HandleFunc("GET /v1/moves", read(func(context.Context) any { return orEmpty(h.UnderWay()) }))
	m.HandleFunc("POST /v1/abort", asked(func(ctx context.Context, r AbortRequest) (any, error) { return h.Abort(ctx, r) }))
	m.HandleFunc("POST /v1/stop", asked(func(ctx context.Context, r MoveRequest) (any, error) {
		return struct{}{}, h.Stop(ctx, r.Container, r.Name)
	}))
	return m
}

// PeerHandler serves what other hosts may ask.
func (h *Host) PeerHandler() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /v1/name", read(func(context.Context) any { return h.o.Name }))
	m.HandleFunc("GET /v1/load", read(func(context.Context) any { return h.Load() }))
	m.HandleFunc("GET /v1/book", read(func(context.Context) any { return h.o.book.id }))
	m.HandleFunc("PUT /v1/module", h.handleModule)
	m.HandleFunc("PUT /v1/pages", h.handlePages)
	m.HandleFunc("GET /v1/native/program", h.handleProgram)
	m.HandleFunc("GET /v1/native/image", h.handleImage)
	m.HandleFunc("POST /v1/moves", asked(func(_ context.Context, r StepRequest) (any, error) {
		return h.Moves(key{r.Container, r.Name}, r.Epoch), nil
	}))
	m.HandleFunc("POST /v1/step", asked(func(ctx context.Context, r StepRequest) (any, error) {
		if err := speaksFor(ctx, r.From); err != nil {
			return nil, err
		}
		return h.Step(ctx, r), nil
	}))
	m.HandleFunc("GET /v1/group/link", h.handleLink)
	m.HandleFunc("POST /v1/group/found", h.ofGroup(func(_ context.Context, g GroupSpec) error { return h.Found(g) }))
	m.HandleFunc("POST /v1/group/join", h.ofGroup(func(_ context.Context, g GroupSpec) error { return h.Join(g) }))
	m.HandleFunc("POST /v1/group/ask", asked(func(ctx context.Context, q GroupAsk) (any, error) {
		if err := h.mayAsk(ctx, q); err != nil {
			return nil, err
		}
		return h.Ask(q)
	}))
	m.HandleFunc("POST /v1/group/describe", asked(func(ctx context.Context, q GroupAsk) (any, error) {
		if err := speaksFor(ctx, h.nodesOf(q.ID)...); err != nil {
			return nil, err
		}
		return h.DescribeGroup(q.ID)
	}))
	m.HandleFunc("POST /v1/group/end", h.ofGroup(func(ctx context.Context, g GroupSpec) error {
		h.endHere(ctx, g)
		return nil
	}))
	return m
}

// ofGroup takes what one of a group's nodes says of it. Who they are is what this node was told when the group began, if it was.
func (h *Host) ofGroup(f func(context.Context, GroupSpec) error) http.HandlerFunc {
	return asked(func(ctx context.Context, g GroupSpec) (any, error) {
		nodes := h.nodesOf(g.ID)
		if nodes == nil {
			nodes = g.Nodes
		}
		if err := speaksFor(ctx, nodes...); err != nil {
			return nil, fmt.Errorf("group of %s: %w", g.key(), err)
		}
		if err := h.shares(g.Container, g.Nodes...); err != nil {
			return nil, fmt.Errorf("group of %s: %w", g.key(), err)
		}
		return struct{}{}, f(ctx, g)
	})
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func orEmpty[T any](all []T) []T {
	if all == nil {
		return []T{}
	}
	return all
}

func read(f func(context.Context) any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { answer(w, f(r.Context()), nil) }
}

// asked takes a request in JSON.
func asked[T any](f func(context.Context, T) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q T
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxJSON))
		d.DisallowUnknownFields()
		if err := d.Decode(&q); err != nil {
			answer(w, nil, fmt.Errorf("the request is not understood: %w", err))
			return
		}
		out, err := f(r.Context(), q)
		answer(w, out, err)
	}
}

func answer(w http.ResponseWriter, out any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		w.WriteHeader(status(err))
		out = errorInfo{Error: err.Error()}
	}
	_ = json.NewEncoder(w).Encode(out) // who has gone needs no answer
}

func status(err error) int {
	switch {
	case errors.Is(err, ErrModule):
		return http.StatusFailedDependency
	case errors.Is(err, ErrSpeaksFor), errors.Is(err, ErrNotShared):
		return http.StatusForbidden
	case errors.Is(err, node.ErrOver):
		return http.StatusGone
	case errors.Is(err, ErrNoProcess), errors.Is(err, ErrNoPeer), errors.Is(err, ErrNoMove), errors.Is(err, dvs.ErrNotBound):
		return http.StatusNotFound
	default:
		return http.StatusBadRequest
	}
}

func (h *Host) handleRun(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	limits, err := parseLimits(q.Get("memory"), q.Get("time"))
	var module []byte
	if err == nil {
		module, err = upload(w, r)
	}
	if err == nil {
		err = h.runAs(r.Context(), q.Get("container"), q.Get("name"), module, limits, q.Get("mode"), q.Get("nodes"))
	}
	answer(w, struct{}{}, err)
}

// runAs runs a process, on several nodes if a mode says so.
func (h *Host) runAs(ctx context.Context, container, name string, module []byte, limits process.Limits, mode, nodes string) error {
	switch mode {
	case "":
		return h.Run(ctx, container, name, module, limits)
	case replica.Passive.String():
		return h.RunReplicated(ctx, container, name, module, limits, replica.Passive, strings.Split(nodes, ","))
	case replica.Active.String():
		return h.RunReplicated(ctx, container, name, module, limits, replica.Active, strings.Split(nodes, ","))
	default:
		return fmt.Errorf("mode %q: want passive or active", mode)
	}
}

// handleLink makes the connection one on which another replica of a group sends.
func (h *Host) handleLink(w http.ResponseWriter, r *http.Request) {
	from := r.URL.Query().Get("from")
	if err := speaksFor(r.Context(), from); err != nil {
		answer(w, nil, err)
		return
	}
	m, err := h.member(r.URL.Query().Get("id"))
	if err != nil {
		answer(w, nil, err)
		return
	}
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		answer(w, nil, err)
		return
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", linkProtocol); err != nil {
		return // who has gone needs no answer
	}
	if err := m.replica.Accept(&readAgain{Conn: c, r: rw.Reader}, from); err != nil {
		h.o.Log.Debug("DVS replica link ended", "endpoint", m.spec.key(), "err", err)
	}
}

// upload reads what is sent to be run, or to be passed on.
func upload(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxUpload))
	if _, long := errors.AsType[*http.MaxBytesError](err); long {
		err = fmt.Errorf("more than %d MiB: send less at a time", maxUpload>>20)
	}
	return b, err
}

func parseLimits(memory, length string) (l process.Limits, err error) {
	if memory != "" {
		if l.Memory, err = strconv.ParseInt(memory, 10, 64); err != nil {
			return l, fmt.Errorf("memory %q: want bytes", memory)
		}
	}
	if length != "" {
		if l.Time, err = time.ParseDuration(length); err != nil {
			return l, fmt.Errorf("time %q: want a length like 1s", length)
		}
	}
	return l, nil
}

func (h *Host) handleCall(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	timeout, err := time.ParseDuration(cmp.Or(q.Get("timeout"), "10s"))
	if err != nil || timeout < 0 {
		answer(w, nil, fmt.Errorf("timeout %q: want a length like 1s, or 0 not to wait", q.Get("timeout")))
		return
	}
	payload, err := upload(w, r)
	if err != nil {
		answer(w, nil, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	if timeout == 0 {
		ctx = dvs.NoWait(r.Context())
	}
	defer cancel()
	reply, err := h.Call(ctx, q.Get("container"), q.Get("name"), payload)
	if err != nil {
		answer(w, nil, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	_, _ = w.Write(reply) // who has gone needs no answer
}

func (h *Host) handleModule(w http.ResponseWriter, r *http.Request) {
	module, err := upload(w, r)
	if err == nil {
		_, err = h.o.Engine.Load(r.Context(), module)
	}
	answer(w, struct{}{}, err)
}

func (h *Host) handlePages(w http.ResponseWriter, r *http.Request) {
	answer(w, struct{}{}, h.takePages(w, r))
}

func (h *Host) takePages(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	var id baseID
	if b, err := hex.DecodeString(q.Get("base")); err != nil || copy(id[:], b) != len(id) {
		return fmt.Errorf("%q is no base", q.Get("base"))
	}
	epoch, err := strconv.ParseUint(q.Get("epoch"), 10, 64)
	if err != nil {
		return fmt.Errorf("%q is no epoch", q.Get("epoch"))
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPages))
	if err != nil {
		return err
	}
	pages, rest, err := process.ParsePages(b)
	if err == nil && len(rest) != 0 {
		err = fmt.Errorf("%w: %d bytes too many", process.ErrState, len(rest))
	}
	if err != nil {
		return err
	}
	k := key{q.Get("container"), q.Get("name")}
	if from, _ := h.comesFrom(k); from != "" {
		if err := speaksFor(r.Context(), from); err != nil {
			return fmt.Errorf("pages for %s: %w", k, err)
		}
	}
	return h.Pages(k, epoch, id, pages)
}
