package process

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
)

// maxModule bounds the bytes of a module.
const maxModule = 64 << 20

// ErrRefused comes with the reason why a module cannot be a process.
var ErrRefused = errors.New("this module cannot be a process")

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrRefused, fmt.Errorf(format, args...))
}

// ID names a module: the SHA-256 of its bytes, as they were before they were rewritten.
type ID [sha256.Size]byte

// String returns it in hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Identify returns the name of a module.
func Identify(module []byte) ID { return sha256.Sum256(module) }

// sections of a module, by their number.
const (
	sectionCustom  = 0
	sectionType    = 1
	sectionImport  = 2
	sectionTable   = 4
	sectionMemory  = 5
	sectionGlobal  = 6
	sectionExport  = 7
	sectionStart   = 8
	sectionElement = 9
	sectionCode    = 10
	sectionData    = 11
	sectionCount   = 12
)

// The types of globals that have a value of at most 64 bits.
const (
	typeI32 = 0x7f
	typeF64 = 0x7c
)

// inspected is what had to be known of a module, and the module rewritten.
type inspected struct {
	rewritten []byte
	globals   []string // the names by which the mutable globals are exported now, in their order
	memory    uint32   // 64 KiB pages to begin with
}

// inspect reads a module, refuses it if its state would not be linear memory and globals alone, and exports its mutable globals, which
// nobody could reach otherwise. Custom sections are left out: nothing depends on them. It does not validate what it lets pass, but for
// lengths that would have a compiler make room for what is not there: whoever compiles the module does.
func inspect(module []byte) (inspected, error) {
	var found inspected
	if len(module) > maxModule {
		return found, refuse("it has %d bytes, at most %d are allowed", len(module), maxModule)
	}
	if len(module) < 8 || string(module[:8]) != "\x00asm\x01\x00\x00\x00" {
		return found, refuse("it is no WebAssembly module of version 1")
	}
	var (
		mutable []uint32
		exports []byte // the entries that are there
		count   uint32
		export  int // where its section belongs
	)
	found.rewritten = append(make([]byte, 0, len(module)), module[:8]...)
	r := reader{b: module, at: 8}
	for r.at < len(module) {
		begin := r.at
		id := r.byte()
		body := r.take(int(r.u32()))
		if r.bad {
			return found, refuse("it is cut off")
		}
		s := reader{b: body}
		err := bounded(id, reader{b: body})
		switch {
		case err != nil:
		case id == sectionImport:
			err = functionsOnly(&s)
		case id == sectionMemory:
			if n := s.u32(); n > 0 {
				s.byte() // whether there is a maximum
				found.memory = s.u32()
			}
		case id == sectionGlobal:
			mutable, err = mutableGlobals(&s)
		case id == sectionExport:
			count = s.u32()
			exports, export = s.rest(), len(found.rewritten)
		case id == sectionStart:
			err = refuse("it has a start function: build it as a reactor, with _initialize instead")
		case id == sectionCode:
			err = scanCode(&s)
		}
		if err != nil {
			return found, err
		}
		if s.bad {
			return found, refuse("its section %d is damaged", id)
		}
		if id != sectionCustom && id != sectionExport {
			found.rewritten = append(found.rewritten, module[begin:r.at]...)
		}
	}
	if export == 0 {
		return found, refuse("it exports nothing: godwit_alloc and godwit_handle are needed")
	}
	for _, global := range mutable {
		name := fmt.Sprintf("godwit:global:%d", global)
		found.globals = append(found.globals, name)
		exports = append(appendName(slices.Clip(exports), name), 3)
		exports = appendU32(exports, global)
	}
	body := append(appendU32(nil, count+uint32(len(mutable))), exports...)
	section := append(appendU32([]byte{sectionExport}, uint32(len(body))), body...)
	found.rewritten = slices.Insert(found.rewritten, export, section...)
	return found, nil
}

// functionsOnly refuses what is imported besides functions: it would be state that belongs to somebody else.
func functionsOnly(r *reader) error {
	for range r.count() {
		from, name := r.name(), r.name()
		kind := r.byte()
		if kind != 0 && !r.bad {
			return refuse("it imports %s.%s, which is no function", from, name)
		}
		r.u32()
	}
	return nil
}

// mutableGlobals returns the indices of the mutable globals.
func mutableGlobals(r *reader) ([]uint32, error) {
	var all []uint32
	for i := range r.count() {
		kind, mutable := r.byte(), r.byte()
		if mutable == 1 {
			if kind < typeF64 || kind > typeI32 {
				return nil, refuse("its global %d is mutable and a vector or a reference: only numbers of up to 64 bits can be moved", i)
			}
			all = append(all, i)
		}
		if err := r.expression(); err != nil {
			return nil, err
		}
	}
	return all, nil
}
