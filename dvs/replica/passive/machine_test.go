package passive_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"

	"github.com/godwit-project/godwit/dvs/replica/state"
)

// machine is a key-value store whose keys are pages: a request reads a key, or appends to it, which shows every lost and every repeated one.
type machine map[uint64]string

func (m machine) call(q state.Request) (state.Reply, state.Delta) {
	key := uint64(q.Payload[0])
	word := string(q.Payload[1:])
	var d state.Delta
	if word != "" {
		m[key] += word
		d = state.Delta{Pages: []state.Page{{Number: key, Data: []byte(m[key])}}}
	}
	return state.Reply{Caller: q.Caller, Seq: q.Seq, Payload: []byte(m[key])}, d
}

func (m machine) apply(d state.Delta) {
	for _, p := range d.Pages {
		m[p.Number] = string(p.Data)
	}
}

func (m machine) snapshot() []byte {
	var b []byte
	for k := range uint64(256) {
		if v := m[k]; v != "" {
			b = append(b, byte(k))
			b = binary.LittleEndian.AppendUint32(b, uint32(len(v)))
			b = append(b, v...)
		}
	}
	return b
}

func restore(b []byte) machine {
	m := machine{}
	for len(b) > 0 {
		n := binary.LittleEndian.Uint32(b[1:])
		m[uint64(b[0])] = string(b[5 : 5+n])
		b = b[5+n:]
	}
	return m
}

// operation is what a client did, for porcupine.
type operation struct {
	key  byte
	word string
}

// model is one key: what is appended stays, in order, once; a reply shows it all.
var model = porcupine.Model{
	Partition: func(h []porcupine.Operation) [][]porcupine.Operation {
		keys := map[byte][]porcupine.Operation{}
		for _, o := range h {
			k := o.Input.(operation).key
			keys[k] = append(keys[k], o)
		}
		var all [][]porcupine.Operation
		for _, k := range keys {
			all = append(all, k)
		}
		return all
	},
	Init: func() any { return "" },
	Step: func(s, in, out any) (bool, any) {
		next := s.(string) + in.(operation).word
		return out == nil || out.(string) == next, next
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v: %v", in, out) },
}

// history collects operations. What was never answered may have happened at any time after it was asked.
type history struct {
	ops  []porcupine.Operation
	open map[int]int // by client: index in ops
}

func (h *history) call(client int, o operation, now int64) {
	h.open[client] = len(h.ops)
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: o, Call: now, Return: math.MaxInt64})
}

func (h *history) answer(client int, payload string, now int64) {
	i := h.open[client]
	h.ops[i].Output, h.ops[i].Return = payload, now
	delete(h.open, client)
}

// linearizable checks it; an operation without an answer that was only a read is left out.
func (h *history) linearizable() bool {
	ops := slices.DeleteFunc(slices.Clone(h.ops), func(o porcupine.Operation) bool {
		return o.Output == nil && o.Input.(operation).word == ""
	})
	return porcupine.CheckOperations(model, ops)
}

func (h *history) String() string {
	var b strings.Builder
	for _, o := range h.ops {
		fmt.Fprintf(&b, "%d: %+v [%d, %d] %v\n", o.ClientId, o.Input, o.Call, o.Return, o.Output)
	}
	return b.String()
}
