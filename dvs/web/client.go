package web

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/godwit-project/godwit/dvs"
)

// Limits where none are given.
const (
	DefaultMaxBody = 8 << 20
	DefaultTimeout = time.Minute
)

// Client passes HTTP requests on to an endpoint. It is an http.Handler.
type Client struct {
	Session  *dvs.Session
	Endpoint string
	// Timeout bounds a request, moves of the endpoint included. Default DefaultTimeout.
	Timeout time.Duration
	// MaxBody bounds a request's body. Default DefaultMaxBody.
	MaxBody int64

	mu   sync.Mutex
	idle []*dvs.Client
}

// ServeHTTP asks the endpoint.
func (c *Client) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	payload, err := c.encode(w, r)
	if err != nil {
		refuse(w, err)
		return
	}
	timeout := c.Timeout
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	defer cancel()
	reply, err := c.ask(ctx, payload)
	if err != nil {
		refuse(w, err)
		return
	}
	if err := answer(w, r, reply); err != nil {
		refuse(w, err)
	}
}

var errUpgrade = errors.New("an upgraded connection cannot pass through an endpoint")

func (c *Client) encode(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.Method == http.MethodConnect || r.Header.Get("Upgrade") != "" {
		return nil, errUpgrade
	}
	limit := c.MaxBody
	if limit <= 0 {
		limit = DefaultMaxBody
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		return nil, err
	}
	return encodeRequest(r, body)
}

// ask makes the request with a caller of its own.
func (c *Client) ask(ctx context.Context, payload []byte) ([]byte, error) {
	one, err := c.take()
	if err != nil {
		return nil, err
	}
	reply, err := one.SendRec(ctx, c.Endpoint, payload)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = append(c.idle, one)
	return reply, err
}

func (c *Client) take() (*dvs.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.idle); n > 0 {
		one := c.idle[n-1]
		c.idle = c.idle[:n-1]
		return one, nil
	}
	return c.Session.Client()
}

// Close gives back what the client holds of the session. No request may be under way.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range c.idle {
		one.Close()
	}
	c.idle = nil
}

// answer writes the endpoint's reply.
func answer(w http.ResponseWriter, r *http.Request, reply []byte) error {
	resp, err := decodeResponse(reply, r)
	if err != nil {
		return fmt.Errorf("the endpoint's answer is no HTTP: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 999 {
		return fmt.Errorf("the endpoint's answer has the status %d", resp.StatusCode)
	}
	header := w.Header()
	for k, v := range resp.Header {
		header[k] = v
	}
	removeHops(header)
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body) // the client may have gone
	return nil
}

// refuse tells an HTTP client what went wrong between it and the service.
func refuse(w http.ResponseWriter, err error) {
	code := http.StatusBadGateway
	var tooLarge *http.MaxBytesError
	switch {
	case errors.Is(err, errUpgrade):
		code = http.StatusNotImplemented
	case errors.As(err, &tooLarge), errors.Is(err, dvs.ErrTooLong):
		code = http.StatusRequestEntityTooLarge
	case errors.Is(err, dvs.ErrNotBound), errors.Is(err, dvs.ErrMigrating), errors.Is(err, dvs.ErrBusy):
		code = http.StatusServiceUnavailable // nothing has happened: it can be repeated
	case errors.Is(err, dvs.ErrTimeout):
		code = http.StatusGatewayTimeout
	}
	http.Error(w, err.Error(), code)
}

// hops are the headers that concern one connection only.
var hops = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

func removeHops(h http.Header) {
	for _, name := range hops {
		h.Del(name)
	}
}

func reader(b []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(b)) }
