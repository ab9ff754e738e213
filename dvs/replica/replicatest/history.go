package replicatest

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"
)

// Operation is what a client asked.
type Operation struct {
	Key  byte
	Word string
}

// model is one key: what is appended stays, in order, once; a reply shows it all.
var model = porcupine.Model{
	Partition: func(h []porcupine.Operation) [][]porcupine.Operation {
		keys := map[byte][]porcupine.Operation{}
		for _, o := range h {
			k := o.Input.(Operation).Key
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
		next := s.(string) + in.(Operation).Word
		return out == nil || out.(string) == next, next
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v: %v", in, out) },
}

// History collects what clients asked and were answered, each client one thing at a time. Times are any that grow.
type History struct {
	ops  []porcupine.Operation
	open map[int]int // by client: index in ops
}

// Call begins an operation.
func (h *History) Call(client int, o Operation, now int64) {
	if h.open == nil {
		h.open = map[int]int{}
	}
	h.open[client] = len(h.ops)
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: o, Call: now, Return: math.MaxInt64})
}

// Answer ends it. What is never answered may have happened at any time since.
func (h *History) Answer(client int, payload string, now int64) {
	i := h.open[client]
	h.ops[i].Output, h.ops[i].Return = payload, now
	delete(h.open, client)
}

// Len returns how many operations there are.
func (h *History) Len() int { return len(h.ops) }

// Linearizable checks it. A read without an answer says nothing and is left out.
func (h *History) Linearizable() bool {
	return porcupine.CheckOperations(model, slices.DeleteFunc(slices.Clone(h.ops), func(o porcupine.Operation) bool {
		return o.Output == nil && o.Input.(Operation).Word == ""
	}))
}

// String lists it.
func (h *History) String() string {
	var b strings.Builder
	for _, o := range h.ops {
		fmt.Fprintf(&b, "%d: %+v [%d, %d] %v\n", o.ClientId, o.Input, o.Call, o.Return, o.Output)
	}
	return b.String()
}
