package controller

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// broken ends before its time.
type broken struct{ io.Reader }

func (b broken) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = errors.New("the agent died")
	}
	return n, err
}

func transferServer(t *testing.T) string {
	server := httptest.NewServer(asToldByHeader(newTransfers(slog.New(slog.DiscardHandler))))
	t.Cleanup(server.Close)
	return server.URL + "/transfers/"
}

func exchange(t *testing.T, method, who, url string, body io.Reader) (int, []byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(callerHeader, who)
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	return res.StatusCode, got, err
}

const asAgent = "agent/host/a/host-a"

func TestATransferPassesFromTheAgentToTheUserWhoeverComesFirst(t *testing.T) {
	url := transferServer(t) + strings.Repeat("0a", 16)
	content := bytes.Repeat([]byte("godwit"), 1<<18)
	for range 4 { // either may be first
		sent := make(chan int, 1)
		go func() {
			code, _, err := exchange(t, http.MethodPut, asAgent, url, bytes.NewReader(content))
			if err != nil {
				t.Error(err)
			}
			sent <- code
		}()
		code, got, err := exchange(t, http.MethodGet, asOperator, url, nil)
		if code != http.StatusOK || err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%d, %d bytes, %v", code, len(got), err)
		}
		if code := <-sent; code != http.StatusOK {
			t.Errorf("the agent is told %d", code)
		}
	}
}

func TestAHalfTransferIsNotTakenForTheWhole(t *testing.T) {
	url := transferServer(t) + strings.Repeat("0b", 16)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _, _ = exchange(t, http.MethodPut, asAgent, url, broken{strings.NewReader("half")})
	}()
	if _, got, err := exchange(t, http.MethodGet, asOperator, url, nil); err == nil {
		t.Errorf("it ends well, with %q", got)
	}
	<-gone
}

func TestTransfersAreForAgentsAndOperators(t *testing.T) {
	url := transferServer(t)
	for _, c := range []struct {
		method, who, name string
		want              int
	}{
		{http.MethodGet, asAgent, strings.Repeat("0c", 16), http.StatusForbidden},
		{http.MethodPut, asOperator, strings.Repeat("0c", 16), http.StatusForbidden},
		{http.MethodGet, asViewer, strings.Repeat("0c", 16), http.StatusForbidden},
		{http.MethodGet, asOperator, "../etc", http.StatusBadRequest},
		{http.MethodPost, asAgent, strings.Repeat("0c", 16), http.StatusForbidden},
		{http.MethodPost, asViewer, strings.Repeat("0c", 16), http.StatusForbidden},
		{http.MethodDelete, asOperator, strings.Repeat("0c", 16), http.StatusMethodNotAllowed},
	} {
		if code, _, err := exchange(t, c.method, c.who, url+c.name, nil); code != c.want || err != nil {
			t.Errorf("%s by %s: %d, %v", c.method, c.who, code, err)
		}
	}
}

// TestATransferMayBeAConversation has each side say something only after it heard the other, so that nothing may be held back.
func TestATransferMayBeAConversation(t *testing.T) {
	server := httptest.NewUnstartedServer(asToldByHeader(newTransfers(slog.New(slog.DiscardHandler))))
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	transport := &http.Transport{Protocols: server.Config.Protocols}
	t.Cleanup(transport.CloseIdleConnections)
	talk := func(method, who string) (say *io.PipeWriter, hear io.ReadCloser) {
		said, say := io.Pipe()
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL+"/transfers/"+strings.Repeat("0d", 16), said)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(callerHeader, who)
		res, err := transport.RoundTrip(req)
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("%s: %v, %v", method, res, err)
		}
		return say, res.Body
	}
	pass := func(say io.Writer, hear io.Reader, text string) {
		got := make([]byte, len(text))
		if _, err := io.WriteString(say, text); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(hear, got); err != nil || string(got) != text {
			t.Fatalf("%q, %v", got, err)
		}
	}
	for _, userLeaves := range []bool{true, false} {
		userSays, userHears := talk(http.MethodPost, asOperator)
		agentSays, agentHears := talk(http.MethodPut, asAgent)
		for range 100 {
			pass(userSays, agentHears, "read")
			pass(agentSays, userHears, strings.Repeat("content", 1000))
		}
		leaves, left := userSays, agentHears
		if !userLeaves {
			leaves, left = agentSays, userHears
		}
		_ = leaves.Close()
		if rest, _ := io.ReadAll(left); len(rest) > 0 {
			t.Errorf("after the end came %q", rest)
		}
		_, _ = io.ReadAll(userHears)
		_, _ = io.ReadAll(agentHears)
		_, _ = userSays.Close(), agentSays.Close()
	}
}

// TestATransferIsTakenByOneUserAndSentByOneAgent: two would have each a part, and take it for the whole.
func TestATransferIsTakenByOneUserAndSentByOneAgent(t *testing.T) {
	url := transferServer(t) + strings.Repeat("0f", 16)
	content := bytes.Repeat([]byte("godwit"), 1<<14) // more than anybody buffers, so that it comes when both are there
	reader, writer := io.Pipe()
	sent := make(chan int, 1)
	go func() {
		code, _, err := exchange(t, http.MethodPut, asAgent, url, reader)
		if err != nil {
			t.Error(err)
		}
		sent <- code
	}()
	writing := make(chan error, 1)
	go func() {
		_, err := writer.Write(content)
		writing <- err
	}()
	taken, err := http.DefaultTransport.RoundTrip(asked(t, http.MethodGet, asOperator, url))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Body.Close()
	for method, who := range map[string]string{http.MethodGet: asOperator, http.MethodPut: asAgent} {
		if res, err := http.DefaultTransport.RoundTrip(asked(t, method, who, url)); err != nil || res.StatusCode != http.StatusConflict {
			t.Errorf("another %s: %v, %v", method, res, err)
		} else if err := res.Body.Close(); err != nil {
			t.Error(err)
		}
	}
	got := make([]byte, len(content))
	if _, err := io.ReadFull(taken.Body, got); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the user has something else: %v", err)
	}
	if err := errors.Join(<-writing, writer.Close()); err != nil {
		t.Fatal(err)
	}
	if more, err := io.ReadAll(taken.Body); err != nil || len(more) > 0 {
		t.Errorf("and %q, %v", more, err)
	}
	if code := <-sent; code != http.StatusOK {
		t.Errorf("the agent is told %d", code)
	}
}

// asked is a request of somebody, with something to say.
func asked(t *testing.T, method, who, url string) *http.Request {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader("more"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set(callerHeader, who)
	return req
}
