package process_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/godwit-project/godwit/server/process"
)

// The parts of modules that are put together by hand.
var (
	magic     = "\x00asm\x01\x00\x00\x00"
	typesOK   = section(1, "\x03", "\x60\x01\x7f\x01\x7f", "\x60\x02\x7f\x7f\x00", "\x60\x00\x00")
	funcsOK   = section(3, "\x03\x00\x01\x02")
	tableOK   = section(4, "\x01\x70\x00\x02")
	memoryOK  = section(5, "\x01\x00\x01")
	exportsOK = section(7, "\x02", name("godwit_alloc"), "\x00\x00", name("godwit_handle"), "\x00\x01")
)

func section(id byte, parts ...string) string {
	body := strings.Join(parts, "")
	return string([]byte{id, byte(len(body)&0x7f | 0x80), byte(len(body) >> 7)}) + body
}

func name(s string) string { return string([]byte{byte(len(s))}) + s }

// code is a code section whose third function is body.
func code(body string) string {
	return section(10, "\x03", "\x04\x00\x41\x10\x0b", "\x02\x00\x0b", string([]byte{byte(len(body) + 2)}), "\x00", body, "\x0b")
}

// What has more state than memory and globals, or is no process at all, is refused with the reason.
func TestModulesAreRefused(t *testing.T) {
	e := newEngine(t)
	plain := code("")
	for _, c := range []struct{ what, module, reason string }{
		{"bad nothing", "", "no WebAssembly module"},
		{"bad text", "hello, world", "no WebAssembly module"},
		{"bad cut", magic + typesOK[:5], "cut off"},
		{"bad no exports", magic + typesOK + funcsOK + memoryOK + plain, "exports nothing"},
		{"bad one export", magic + typesOK + funcsOK + memoryOK + section(7, "\x01", name("godwit_alloc"), "\x00\x00") + plain, "does not export godwit_handle"},
		{"bad signature", magic + typesOK + funcsOK + memoryOK + section(7, "\x02", name("godwit_alloc"), "\x00\x01", name("godwit_handle"), "\x00\x01") + plain, "godwit_alloc must take 1"},
		{"bad command", magic + typesOK + funcsOK + memoryOK + section(7, "\x03", name("godwit_alloc"), "\x00\x00", name("godwit_handle"), "\x00\x01", name("_start"), "\x00\x02") + plain, "reactor"},
		{"bad start", magic + typesOK + funcsOK + memoryOK + exportsOK + section(8, "\x02") + plain, "start function"},
		{"bad imported memory", magic + typesOK + section(2, "\x01", name("env"), name("memory"), "\x02\x00\x01") + funcsOK + exportsOK + plain, "no function"},
		{"bad import", magic + typesOK + section(2, "\x01", name("env"), name("f"), "\x00\x00") + funcsOK + memoryOK + exportsOK + plain, "env.f, which is not offered"},
		{"bad import's type", magic + typesOK + section(2, "\x01", name("godwit"), name("reply"), "\x00\x00") + funcsOK + memoryOK + exportsOK + plain, "other parameters"},
		{"bad table.set", magic + typesOK + funcsOK + tableOK + memoryOK + exportsOK + code("\x41\x00\xd0\x70\x26\x00"), "table.set"},
		{"bad table.grow", magic + typesOK + funcsOK + tableOK + memoryOK + exportsOK + code("\xd0\x70\x41\x01\xfc\x0f\x00\x1a"), "table.grow"},
		{"bad table.fill", magic + typesOK + funcsOK + tableOK + memoryOK + exportsOK + code("\x41\x00\xd0\x70\x41\x01\xfc\x11\x00"), "table.fill"},
		{"bad table.copy", magic + typesOK + funcsOK + tableOK + memoryOK + exportsOK + code("\x41\x00\x41\x00\x41\x00\xfc\x0e\x00\x00"), "table.copy"},
		{"bad table.init", magic + typesOK + funcsOK + tableOK + memoryOK + exportsOK + code("\x41\x00\x41\x00\x41\x00\xfc\x0c\x00\x00"), "table.init"},
		{"bad elem.drop", magic + typesOK + funcsOK + tableOK + memoryOK + exportsOK + code("\xfc\x0d\x00"), "elem.drop"},
		{"bad data.drop", magic + typesOK + funcsOK + memoryOK + exportsOK + code("\xfc\x09\x00"), "data.drop"},
		{"bad atomics", magic + typesOK + funcsOK + memoryOK + exportsOK + code("\xfe\x03\x00"), "0xfe"},
		{"bad vector global", magic + typesOK + funcsOK + memoryOK + section(6, "\x01\x7b\x01\xfd\x0c", strings.Repeat("\x00", 16), "\x0b") + exportsOK + plain, "vector or a reference"},
		{"bad reference global", magic + typesOK + funcsOK + memoryOK + section(6, "\x01\x70\x01\xd0\x70\x0b") + exportsOK + plain, "vector or a reference"},
		{"bad body", magic + typesOK + funcsOK + memoryOK + exportsOK + code("\x6a"), "does not compile"},
	} {
		_, err := e.Load(context.Background(), []byte(c.module))
		if !errors.Is(err, process.ErrRefused) || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%s: %v, want %q", c.what, err, c.reason)
		}
	}
	good := magic + typesOK + funcsOK + tableOK + memoryOK + section(6, "\x02\x7f\x01\x41\x07\x0b\x7e\x00\x42\x07\x0b") + exportsOK + code("\x23\x00\x41\x01\x6a\x24\x00")
	start(t, load(t, e, []byte(good)), process.Options{})
}

// A module that needs more memory than the limit is refused when it is started.
func TestAModuleThatNeedsTooMuch(t *testing.T) {
	m := load(t, newEngine(t), []byte(magic+typesOK+funcsOK+section(5, "\x01\x00\x10")+exportsOK+code("")))
	_, err := m.Start(t.Context(), process.Options{Limits: process.Limits{Memory: 15 << 16}})
	if !errors.Is(err, process.ErrRefused) {
		t.Fatal(err)
	}
}

// Whatever the bytes are, reading them does not panic; and what the engine takes, our reader has understood to the last byte.
func FuzzModule(f *testing.F) {
	f.Add([]byte(magic + typesOK + funcsOK + tableOK + memoryOK + exportsOK + code("\x41\x00\xd0\x70\x26\x00")))
	f.Add([]byte(magic + typesOK + funcsOK + memoryOK + section(6, "\x02\x7f\x01\x41\x07\x0b\x7e\x00\x42\x07\x0b") + exportsOK + code("\x23\x00\x41\x01\x6a\x24\x00")))
	f.Add([]byte(magic + typesOK + funcsOK + memoryOK + exportsOK + code("\x02\x40\x0b\x0e\x01\x00\x00\xfc\x0b\x00\x3f\x00\x1a")))
	e := engineWith(f, "")
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := e.Load(context.Background(), bytes.Clone(b))
		if err != nil && !errors.Is(err, process.ErrRefused) {
			t.Fatalf("an error of another kind: %v", err)
		}
		if err == nil && !bytes.Equal(m.Bytes(), b) {
			t.Fatal("the module's bytes have changed")
		}
	})
}

// Whatever the bytes are, they are a state or refused, and a state is the same bytes again.
func FuzzState(f *testing.F) {
	s := process.State{Globals: []byte("globals"), Pages: []process.Page{{Number: 1}, {Number: 3, Data: make([]byte, process.PageSize)}}}
	f.Add(s.Append(nil))
	f.Add(s.Append(nil)[:50])
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := process.ParseState(b)
		if err != nil {
			return
		}
		if again := s.Append(nil); !slices.Equal(again, b) {
			t.Fatalf("%d bytes became %d", len(b), len(again))
		}
	})
}
