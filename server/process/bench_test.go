package process_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/godwit-project/godwit/server/process"
)

// BenchmarkCall is one message.
func BenchmarkCall(b *testing.B) {
	for _, c := range []struct {
		name    string
		module  func(testing.TB) []byte
		payload string
	}{{"go", kvModule, "get key"}, {"c", counterModule, "1"}} {
		b.Run(c.name, func(b *testing.B) {
			p := start(b, load(b, newEngine(b), c.module(b)), process.Options{})
			in := input(1, c.payload)
			for b.Loop() {
				if _, err := p.Call(context.Background(), in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkState is what can be done with a state of so many MiB, of which one page in 256 changes.
func BenchmarkState(b *testing.B) {
	for _, size := range []int{0, 2, 64} {
		m := load(b, newEngine(b), counterModule(b))
		p := start(b, m, process.Options{})
		if size > 0 {
			ask(b, p, 1, fmt.Sprintf("fill %d", size<<20))
		}
		copied := start(b, m, process.Options{Blank: true})
		b.Run(fmt.Sprintf("changes/%dMiB", size), func(b *testing.B) {
			_, _, mark := p.Changes(0)
			for b.Loop() {
				ask(b, p, 2, fmt.Sprintf("touch %d", size<<12))
				_, _, mark = p.Changes(mark)
			}
		})
		b.Run(fmt.Sprintf("snapshot/%dMiB", size), func(b *testing.B) {
			for b.Loop() {
				if _, err := p.Snapshot(); err != nil {
					b.Fatal(err)
				}
			}
		})
		s, err := p.Snapshot()
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("restore/%dMiB", size), func(b *testing.B) {
			for b.Loop() {
				if err := copied.Restore(s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkStart is a compile, and a start of what is compiled.
func BenchmarkStart(b *testing.B) {
	b.Run("compile/go", func(b *testing.B) {
		for b.Loop() {
			load(b, engineWith(b, ""), kvModule(b))
		}
	})
	m := load(b, newEngine(b), kvModule(b))
	b.Run("start/go", func(b *testing.B) {
		for b.Loop() {
			p, err := m.Start(b.Context(), process.Options{})
			if err != nil {
				b.Fatal(err)
			}
			p.Close()
		}
	})
}
