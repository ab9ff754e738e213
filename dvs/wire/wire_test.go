package wire_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"reflect"
	"testing"

	"github.com/godwit-project/godwit/dvs/endpoint"
	"github.com/godwit-project/godwit/dvs/wire"
)

// parsers is every kind of frame with its parser, as one function from bytes to a value that can be encoded again.
var parsers = map[wire.Kind]func([]byte) (any, error){
	wire.KindHello:     parser(wire.ParseHello),
	wire.KindWelcome:   parser(wire.ParseWelcome),
	wire.KindBind:      parser(wire.ParseBind),
	wire.KindUnbind:    parser(wire.ParseUnbind),
	wire.KindAnswer:    parser(wire.ParseAnswer),
	wire.KindWatch:     parser(wire.ParseWatch),
	wire.KindRoute:     parser(wire.ParseRoute),
	wire.KindIntroduce: parser(wire.ParseIntroduce),
	wire.KindRevoke:    parser(wire.ParseRevoke),
	wire.KindOrder:     parser(wire.ParseOrder),
	wire.KindDone:      parser(wire.ParseDone),
	wire.KindChunk:     parser(wire.ParseChunk),
	wire.KindGone:      parser(wire.ParseGone),
	wire.KindCaller:    parser(wire.ParseCaller),
	wire.KindPiece:     parser(wire.ParsePiece),
	wire.KindCredit:    parser(wire.ParseCredit),
	wire.KindRequest:   parser(wire.ParseRequest),
	wire.KindReply:     parser(wire.ParseReply),
	wire.KindProbe:     parser(wire.ParseInquiry),
	wire.KindCancel:    parser(wire.ParseInquiry),
	wire.KindLinkHello: parser(wire.ParseLinkHello),
	wire.KindLinkAck:   parser(wire.ParseLinkAck),
	wire.KindLinkStart: parser(wire.ParseLinkStart),
	wire.KindPressed:   parser(wire.ParsePressed),
	wire.KindForward:   parser(wire.ParseForward),
	wire.KindAnnounce:  parser(wire.ParseAnnounce),
	wire.KindState:     parser(wire.ParseForward),
	wire.KindStream:    parser(wire.ParseStream),
	wire.KindMeet:      parser(wire.ParseMeet),
	wire.KindMet:       parser(wire.ParseMet),
}

func parser[T any](parse func([]byte) (T, error)) func([]byte) (any, error) {
	return func(b []byte) (any, error) { return parse(b) }
}

// encode is the reverse of the parsers, with the frame's length.
func encode(k wire.Kind, v any) []byte {
	switch m := v.(type) {
	case endpoint.Request:
		return wire.AppendRequest(nil, m)
	case endpoint.Reply:
		return wire.AppendReply(nil, m)
	case wire.Inquiry:
		return m.Append(nil, k)
	case wire.Forward:
		return m.Append(nil, k)
	case interface{ Append([]byte) []byte }:
		return m.Append(nil)
	default:
		return nil
	}
}

func samples() map[wire.Kind]any {
	v := endpoint.Version{Epoch: 9, Serial: 2}
	order := wire.Order{Endpoint: 7, Epoch: 9, Order: wire.OrderHold, Version: v}
	inner := wire.Encoded(wire.Gone{Caller: 5}.Append(nil))
	return map[wire.Kind]any{
		wire.KindHello:     wire.Hello{Version: 1, Direct: true, Caller: 5, Container: "shop", Program: "stock"},
		wire.KindWelcome:   wire.Welcome{Version: 1, MaxPayload: 1 << 20, Node: "a"},
		wire.KindBind:      wire.Bind{Call: 1, Standby: true, Movable: true, Name: "stock", Replicated: true, Again: true, Held: true, Epoch: 5, Line: 2, Serial: 3},
		wire.KindUnbind:    wire.Unbind{Call: 2, Endpoint: 7},
		wire.KindAnswer:    wire.Answer{Call: 2, Code: endpoint.NameUsed, Version: v, Text: "why"},
		wire.KindWatch:     wire.Watch{Name: "stock"},
		wire.KindRoute:     wire.Route{Endpoint: 7, Version: v, Line: 3, State: endpoint.Moving, Channel: 4},
		wire.KindIntroduce: wire.Introduce{Channel: 1, PeerChannel: 2, Side: 1, Peer: 5},
		wire.KindRevoke:    wire.Revoke{Channel: 1},
		wire.KindOrder:     order,
		wire.KindDone:      wire.Done{Order: order, Code: endpoint.Failed, Text: "why"},
		wire.KindChunk:     wire.Chunk{Endpoint: 7, Epoch: 9, Offset: 1, Total: 5, Data: []byte("data")},
		wire.KindGone:      wire.Gone{Caller: 5},
		wire.KindCaller:    wire.Caller{Endpoint: 7, Caller: 5},
		wire.KindPiece:     wire.Piece{Endpoint: 7, Epoch: 9, Number: 3, First: true, Data: []byte("data")},
		wire.KindCredit:    wire.Credit{Endpoint: 7, Epoch: 9, Number: 3, Code: endpoint.Failed, Text: "why"},
		wire.KindRequest:   endpoint.Request{Kind: endpoint.SendRec, NoWait: true, Repeat: true, From: "me", To: 7, Caller: 5, Seq: 6, Line: 3, Payload: []byte("?")},
		wire.KindReply:     endpoint.Reply{Caller: 5, Seq: 6, To: 7, Code: endpoint.Held, Version: v, Payload: []byte("!")},
		wire.KindProbe:     wire.Inquiry{To: 7, Caller: 5, Seq: 6},
		wire.KindCancel:    wire.Inquiry{To: 7, Caller: 5, Seq: 6},
		wire.KindLinkHello: wire.LinkHello{Version: 1, Incarnation: 5, PeerIncarnation: 6, Received: 7, Node: "a"},
		wire.KindLinkAck:   wire.LinkAck{Received: 7},
		wire.KindLinkStart: wire.LinkStart{Number: 8},
		wire.KindPressed:   wire.Pressed{Size: 9, Block: []byte("block")},
		wire.KindForward:   wire.Forward{Container: "shop", Frame: inner},
		wire.KindAnnounce:  wire.Announce{Container: "shop", Name: "stock", Version: v, Line: 3, State: endpoint.Open, Replicated: true},
		wire.KindState:     wire.Forward{Container: "shop", Frame: inner},
		wire.KindStream:    wire.Stream{Channel: 3, Side: 1, Secret: [wire.SecretSize]byte{5}},
		wire.KindMeet:      wire.Meet{Number: 3, Endpoint: 7, Container: "shop", Token: [wire.TokenSize]byte{1}, Secret: [wire.SecretSize]byte{2}},
		wire.KindMet:       wire.Met{Number: 3, Address: "192.0.2.1:7703"},
	}
}

func TestEveryFrameComesBackAsItWas(t *testing.T) {
	all := samples()
	for k, parse := range parsers {
		v, ok := all[k]
		if !ok {
			t.Errorf("no sample of %s", k)
			continue
		}
		f, err := wire.Read(bufio.NewReader(bytes.NewReader(encode(k, v))))
		if err != nil || f.Kind != k {
			t.Errorf("%s: read as %s, %v", k, f.Kind, err)
			continue
		}
		back, err := parse(f.Body)
		if err != nil || !reflect.DeepEqual(back, v) {
			t.Errorf("%s: %+v came back as %+v, %v", k, v, back, err)
		}
		for cut := range f.Body {
			if _, err := parse(f.Body[:cut]); err != nil && !errors.Is(err, wire.ErrFrame) {
				t.Errorf("%s cut to %d: %v", k, cut, err)
			}
		}
	}
}

func TestALieAboutTheLengthCostsNoMemory(t *testing.T) {
	long := append([]byte{0, 0, 0, 4}, make([]byte, 100)...) // 64 MiB promised
	if _, err := wire.Read(bufio.NewReader(bytes.NewReader(long))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	for _, b := range [][]byte{{0, 0, 0, 0, 1}, {255, 255, 255, 255, 1}} {
		if _, err := wire.Read(bufio.NewReader(bytes.NewReader(b))); !errors.Is(err, wire.ErrFrame) {
			t.Errorf("%v: %v", b, err)
		}
	}
}

// FuzzFrame reads whatever comes as a frame, parses it, and expects that what parses encodes and parses to the same again.
func FuzzFrame(f *testing.F) {
	for k, v := range samples() {
		f.Add(encode(k, v))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := wire.Read(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			return
		}
		parse := parsers[frame.Kind]
		if parse == nil {
			return
		}
		v, err := parse(frame.Body)
		if err != nil {
			if !errors.Is(err, wire.ErrFrame) {
				t.Fatalf("%v is not ErrFrame", err)
			}
			return
		}
		again, err := wire.Read(bufio.NewReader(bytes.NewReader(encode(frame.Kind, v))))
		if err != nil {
			t.Fatal(err)
		}
		w, err := parse(again.Body)
		if err != nil || !reflect.DeepEqual(v, w) {
			t.Fatalf("%+v came back as %+v, %v", v, w, err)
		}
	})
}

// FuzzRange does the same for the payload of copies.
func FuzzRange(f *testing.F) {
	f.Add(wire.Range{Buffer: "b", Offset: 1, Length: 2, Area: true, Data: []byte("xy")}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := wire.ParseRange(b); err == nil && !bytes.Equal(m.Append(nil), b) {
			t.Fatalf("%+v", m)
		}
	})
}
