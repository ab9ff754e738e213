package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"

	"github.com/godwit-project/godwit/dvs"
)

// Service is where the requests of an endpoint go.
type Service struct {
	// Address is the service's host and port: 127.0.0.1:8080.
	Address string
	// Transport makes the requests. Default http.DefaultTransport.
	Transport http.RoundTripper
	// MaxBody bounds an answer's body. Default DefaultMaxBody.
	MaxBody int64
	// Parallel is how many requests the service works on at once. Default 64.
	Parallel int
	Log      *slog.Logger // default none
}

// Serve passes what an endpoint receives on to the service, until ctx ends or the endpoint does: then it returns why, dvs.ErrMoved after a move.
func (v Service) Serve(ctx context.Context, e *dvs.Endpoint) error {
	if v.Transport == nil {
		v.Transport = http.DefaultTransport
	}
	if v.MaxBody <= 0 {
		v.MaxBody = DefaultMaxBody
	}
	if v.Parallel <= 0 {
		v.Parallel = 64
	}
	if v.Log == nil {
		v.Log = slog.New(slog.DiscardHandler)
	}
	var wg sync.WaitGroup
	errs := make([]error, v.Parallel)
	for i := range v.Parallel {
		wg.Go(func() { errs[i] = v.work(ctx, e) })
	}
	wg.Wait()
	return errs[0]
}

func (v Service) work(ctx context.Context, e *dvs.Endpoint) error {
	for {
		m, err := e.ReceiveRequest(ctx)
		if err != nil {
			return err
		}
		err = e.Reply(m, v.handle(ctx, m.Payload))
		if errors.Is(err, dvs.ErrTooLong) {
			err = e.Reply(m, failure(http.StatusBadGateway, err))
		}
		if err != nil {
			v.Log.Debug("an HTTP answer was not wanted any more", "endpoint", e.Name(), "err", err)
		}
	}
}

// handle asks the service. What goes wrong becomes an answer too.
func (v Service) handle(ctx context.Context, payload []byte) []byte {
	r, err := decodeRequest(payload, v.Address)
	if err != nil {
		return failure(http.StatusBadRequest, fmt.Errorf("what the endpoint received is no HTTP request: %w", err))
	}
	resp, err := v.Transport.RoundTrip(r.WithContext(ctx))
	if err != nil {
		return failure(http.StatusBadGateway, fmt.Errorf("ask the service at %s: %w", v.Address, err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, v.MaxBody+1))
	switch {
	case err != nil:
		return failure(http.StatusBadGateway, fmt.Errorf("read the answer of the service at %s: %w", v.Address, err))
	case int64(len(body)) > v.MaxBody:
		return failure(http.StatusBadGateway, fmt.Errorf("the answer of the service at %s is longer than %d bytes: raise the limit of the adapter", v.Address, v.MaxBody))
	}
	b, err := encodeResponse(resp, body)
	if err != nil {
		return failure(http.StatusBadGateway, fmt.Errorf("pass on the answer of the service at %s: %w", v.Address, err))
	}
	return b
}

func failure(code int, err error) []byte {
	text := strings.ReplaceAll(err.Error(), "\r", " ")
	return fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n\r\n%s", code, http.StatusText(code), len(text), text)
}
