package replica_test

import (
	"testing"

	"github.com/godwit-project/godwit/dvs/replica"
	"github.com/godwit-project/godwit/dvs/replica/replicatest"
	"github.com/godwit-project/godwit/dvs/replica/state"
)

// BenchmarkHandle compares the latency of one request on three replicas over loopback, all in this process, with that of the bare machine.
func BenchmarkHandle(b *testing.B) {
	b.Run("bare", func(b *testing.B) {
		m := newMachine()
		for i := 0; b.Loop(); i++ {
			if _, err := m.Call(b.Context(), replica.Input{Payload: replicatest.Request(byte(i), "")}); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, kind := range []replica.Kind{replica.Passive, replica.Active} {
		b.Run(kind.String(), func(b *testing.B) {
			g := newGroup(b, kind)
			g.full()
			r := g.replica(g.serving())
			for i := uint64(1); b.Loop(); i++ {
				if _, err := r.Handle(b.Context(), state.Request{Caller: 5, Seq: i, Payload: replicatest.Request(byte(i), "")}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
