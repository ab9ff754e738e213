package wan

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"
)

// pair is a listener on loopback and a dialler that may reach it.
type pair struct {
	addr     string
	dialer   *Dialer
	incoming *Meter
}

func newPair(t *testing.T, accept Accept) *pair {
	t.Helper()
	server, client := testTLS(t)
	p := &pair{dialer: &Dialer{TLS: client, Meter: new(Meter)}, incoming: new(Meter)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	ln := &Listener{TLS: server, Meter: p.incoming, Accept: accept, Logger: slog.New(slog.DiscardHandler)}
	go func() { done <- ln.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return p
}

func testTLS(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	pairs := []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	return &tls.Config{Certificates: pairs, MinVersion: tls.VersionTLS13}, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS13}
}

func echo(context.Context, Hello, tls.ConnectionState) (func(context.Context, *Stream), error) {
	return func(_ context.Context, s *Stream) {
		_, _ = io.Copy(s, s)
		_ = s.CloseWrite()
	}, nil
}

func TestAStreamCarriesBytesBothWaysAndPassesOnTheEnd(t *testing.T) {
	p := newPair(t, echo)
	s, err := p.dialer.Dial(t.Context(), p.addr, Hello{Kind: "memory", Service: "shop", Epoch: 7, Class: Handover})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	sent := bytes.Repeat([]byte("godwit"), 50_000)
	go func() {
		_, _ = s.Write(sent)
		_ = s.CloseWrite()
	}()
	got, err := io.ReadAll(s)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sent) {
		t.Fatalf("got %d bytes back, want the %d that were sent", len(got), len(sent))
	}
	for name, n := range map[string]int64{"dialler": p.dialer.Meter.Bytes("shop", 7), "listener": p.incoming.Bytes("shop", 7)} {
		if low, high := int64(2*len(sent)), int64(2*len(sent)*11/10+20_000); n < low || n > high {
			t.Errorf("%s counted %d bytes, want %d to %d", name, n, low, high)
		}
	}
}

func TestARefusalTellsTheDiallerWhy(t *testing.T) {
	p := newPair(t, func(context.Context, Hello, tls.ConnectionState) (func(context.Context, *Stream), error) {
		return nil, errors.New("epoch 3 is over")
	})
	_, err := p.dialer.Dial(t.Context(), p.addr, Hello{Kind: "volume", Service: "shop", Epoch: 3})
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "epoch 3 is over") {
		t.Fatalf("got %v, want a refusal with its reason", err)
	}
}

func TestServeEndsOpenStreams(t *testing.T) {
	var s *Stream
	t.Cleanup(func() { _ = s.Close() }) // last: Serve, which ends before, must not hang on the open stream
	opened := make(chan struct{})
	p := newPair(t, func(context.Context, Hello, tls.ConnectionState) (func(context.Context, *Stream), error) {
		return func(_ context.Context, s *Stream) {
			close(opened)
			_, _ = io.Copy(io.Discard, s)
		}, nil
	})
	var err error
	if s, err = p.dialer.Dial(t.Context(), p.addr, Hello{Kind: "memory", Service: "shop", Epoch: 1}); err != nil {
		t.Fatal(err)
	}
	<-opened
}

func TestClockOffsetLiesInTheMiddleOfTheRoundTrip(t *testing.T) {
	sent := time.Unix(100, 0)
	offset, uncertainty := clockOffset(sent, sent.Add(20*time.Millisecond), sent.Add(15*time.Millisecond).UnixNano())
	if offset != 5*time.Millisecond || uncertainty != 10*time.Millisecond {
		t.Fatalf("got %v ± %v, want 5ms ± 10ms", offset, uncertainty)
	}
}

func TestCountersOfOlderAttemptsAreForgotten(t *testing.T) {
	m := new(Meter)
	m.counter("shop", 1).Add(5)
	m.counter("shop", 2).Add(6)
	m.counter("mail", 1).Add(7)
	m.Forget("shop", 2)
	if a, b, c := m.Bytes("shop", 1), m.Bytes("shop", 2), m.Bytes("mail", 1); a != 0 || b != 6 || c != 7 {
		t.Fatalf("got %d, %d, %d; want 0, 6, 7", a, b, c)
	}
}

func FuzzReadMessage(f *testing.F) {
	var good bytes.Buffer
	if err := writeMessage(&good, Hello{Version: version, Kind: "memory", Service: "shop", Epoch: 9, Class: Handover}); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	f.Add([]byte{0, 0, 0, 2, '{', '}'})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, in []byte) {
		var h Hello
		if err := readMessage(bytes.NewReader(in), &h); err != nil {
			return
		}
		var again bytes.Buffer
		if err := writeMessage(&again, h); err != nil && !errors.Is(err, errTooLong) {
			t.Fatal(err)
		}
	})
}

func TestACompressedStreamComesOutAsItWentInAndEveryWriteAtOnce(t *testing.T) {
	p := newPair(t, func(context.Context, Hello, tls.ConnectionState) (func(context.Context, *Stream), error) {
		return func(_ context.Context, s *Stream) {
			in, err := Decompress(s)
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.Copy(s, in)
			_ = s.CloseWrite()
		}, nil
	})
	s, err := p.dialer.Dial(t.Context(), p.addr, Hello{Kind: "memory", Service: "shop", Epoch: 8})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	out, err := Compress(s)
	if err != nil {
		t.Fatal(err)
	}
	piece := bytes.Repeat([]byte("the same again "), 4096)
	echoed := make([]byte, len(piece))
	for range 20 { // each write is echoed before the next: none waits for more
		if _, err := out.Write(piece); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(s, echoed); err != nil || !bytes.Equal(echoed, piece) {
			t.Fatalf("echo: equal %v, %v", bytes.Equal(echoed, piece), err)
		}
	}
	if err := out.(*compressor).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(s); err != nil || len(rest) != 0 {
		t.Fatalf("after the end: %d bytes, %v", len(rest), err)
	}
	if there := p.dialer.Meter.Bytes("shop", 8) - int64(20*len(piece)); there > int64(2*len(piece)) {
		t.Errorf("%d bytes beyond the echo went over the wire: not compressed", there)
	}
}
