package dvshost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"

	"github.com/godwit-project/godwit/server/native"
)

func (k key) query() url.Values {
	return url.Values{"container": {k.container}, "name": {k.name}}
}

// executable fetches the file of a native program that runs there.
func (p *Peer) executable(ctx context.Context, k key, to io.Writer) error {
	return p.do(ctx, http.MethodGet, "/v1/native/program", k.query(), nil, func(r io.Reader) error {
		n, err := io.Copy(to, io.LimitReader(r, maxImage))
		if err == nil && n == 0 {
			err = errors.New("it is empty")
		}
		return err
	})
}

// image has a program stopped, and fetches its image.
func (p *Peer) image(ctx context.Context, k key, epoch uint64, dir string) error {
	q := k.query()
	q.Set("epoch", strconv.FormatUint(epoch, 10))
	return p.do(ctx, http.MethodGet, "/v1/native/image", q, nil, func(r io.Reader) error { return native.Receive(r, dir, maxImage) })
}

// RunNative starts a native program on the node's machine.
func (c *Client) RunNative(ctx context.Context, spec NativeSpec) error {
	_, err := post[struct{}](ctx, c.client, "/v1/native", spec)
	return err
}

// handleProgram sends the executable of a program that runs here.
func (h *Host) handleProgram(w http.ResponseWriter, r *http.Request) {
	p, err := h.nativeOf(r)
	if err != nil {
		answer(w, nil, err)
		return
	}
	f, err := p.executable()
	if err != nil {
		answer(w, nil, err)
		return
	}
	defer f.Close()
	if _, err := io.Copy(w, f); err != nil {
		panic(http.ErrAbortHandler) // so that the other end sees that it is not all
	}
}

// handleImage stops a program that a move has held, and sends its image.
func (h *Host) handleImage(w http.ResponseWriter, r *http.Request) {
	p, err := h.nativeOf(r)
	var epoch uint64
	if err == nil {
		epoch, err = strconv.ParseUint(r.URL.Query().Get("epoch"), 10, 64)
	}
	var dir string
	if err == nil {
		dir, err = os.MkdirTemp(h.scratch, "godwit-image-")
	}
	if err != nil {
		answer(w, nil, err)
		return
	}
	defer os.RemoveAll(dir)
	if err := p.image(context.WithoutCancel(r.Context()), epoch, dir); err != nil {
		answer(w, nil, err)
		return
	}
	if err := native.Send(w, dir); err != nil {
		h.o.Log.Warn("DVS program's image not sent", "endpoint", p.spec.key(), "err", err)
		panic(http.ErrAbortHandler) // so that the other end sees that it is not all
	}
}

// nativeOf returns the program that a request speaks of.
func (h *Host) nativeOf(r *http.Request) (*program, error) {
	q := r.URL.Query()
	k := key{q.Get("container"), q.Get("name")}
	if err := h.sharesWithAsker(r.Context(), k.container); err != nil {
		return nil, err
	}
	if p := h.natives.find(k); p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("%s: %w", k, ErrNoProcess)
}
