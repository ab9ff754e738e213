package process

// opcode is an instruction's number; those with a prefix have it in the high bits.
type opcode uint32

// Instructions that are told apart here.
const (
	opBlock    opcode = 0x02
	opLoop     opcode = 0x03
	opIf       opcode = 0x04
	opEnd      opcode = 0x0b
	opTableSet opcode = 0x26

	prefixBulk   = 0xfc
	prefixVector = 0xfd

	opDataDrop  opcode = prefixBulk<<16 | 9
	opTableInit opcode = prefixBulk<<16 | 12
	opElemDrop  opcode = prefixBulk<<16 | 13
	opTableCopy opcode = prefixBulk<<16 | 14
	opTableGrow opcode = prefixBulk<<16 | 15
	opTableFill opcode = prefixBulk<<16 | 17
)

// forbidden instructions change what is neither memory nor a global, so that it could not be moved.
func (op opcode) forbidden() string {
	switch op {
	case opTableSet:
		return "table.set"
	case opTableInit:
		return "table.init"
	case opTableCopy:
		return "table.copy"
	case opTableGrow:
		return "table.grow"
	case opTableFill:
		return "table.fill"
	case opElemDrop:
		return "elem.drop"
	case opDataDrop:
		return "data.drop"
	default:
		return ""
	}
}

// nesting is by how much the instruction changes the depth of blocks.
func (op opcode) nesting() int {
	switch op {
	case opBlock, opLoop, opIf:
		return 1
	case opEnd:
		return -1
	default:
		return 0
	}
}

// maxLocals bounds the local variables of a function.
const maxLocals = 50_000

// scanCode reads all instructions of the code section.
func scanCode(r *reader) error {
	for i := range r.count() {
		body := reader{b: r.take(int(r.u32()))}
		locals := uint64(0)
		for range body.count() {
			locals += uint64(body.u32())
			body.byte()
		}
		if locals > maxLocals {
			return refuse("its function %d has %d local variables, at most %d are allowed", i, locals, maxLocals)
		}
		for body.at < len(body.b) && !body.bad {
			op, err := body.instruction()
			if err != nil {
				return err
			}
			if name := op.forbidden(); name != "" && !body.bad {
				return refuse("its function %d changes a table or drops a segment while it runs (%s): only memory and globals can be moved. Build it without dynamic linking and threads", i, name)
			}
		}
		if body.bad {
			r.bad = true
			return nil
		}
	}
	return nil
}

// expression reads instructions up to the end of the expression.
func (r *reader) expression() error {
	for depth := 1; depth > 0 && !r.bad; {
		op, err := r.instruction()
		if err != nil {
			return err
		}
		depth += op.nesting()
	}
	return nil
}

// instruction reads one instruction with what belongs to it. It knows those of WebAssembly 2.0.
func (r *reader) instruction() (opcode, error) {
	first := r.byte()
	switch {
	case first == prefixBulk:
		return r.bulk()
	case first == prefixVector:
		return r.vector()
	case first == 0x02 || first == 0x03 || first == 0x04: // block, loop, if
		r.leb(33)
	case first == 0x0e: // br_table
		for range r.count() {
			r.u32()
		}
		r.u32()
	case first == 0x11: // call_indirect
		r.u32()
		r.u32()
	case first == 0x1c: // select with types
		r.take(int(r.u32()))
	case first == 0x0c || first == 0x0d || first == 0x10 || first >= 0x20 && first <= 0x26 || first == 0xd2: // one index
		r.u32()
	case first >= 0x28 && first <= 0x3e: // loads and stores
		r.place()
	case first == 0x3f || first == 0x40 || first == 0xd0: // memory.size, memory.grow, ref.null
		r.byte()
	case first == 0x41:
		r.leb(32)
	case first == 0x42:
		r.leb(64)
	case first == 0x43:
		r.take(4)
	case first == 0x44:
		r.take(8)
	case first <= 0x01, first == 0x05, first == 0x0b, first == 0x0f, first == 0x1a, first == 0x1b, first >= 0x45 && first <= 0xc4, first == 0xd1:
	default:
		return 0, refuse("it has an instruction 0x%02x, which is not known here: build it for WebAssembly 2.0, without threads, exceptions and tail calls", first)
	}
	return opcode(first), nil
}

// place reads where a load or store goes: alignment and offset.
func (r *reader) place() {
	r.u32()
	r.u32()
}

// bulk reads an instruction for whole ranges of memory and tables.
func (r *reader) bulk() (opcode, error) {
	n := r.u32()
	switch {
	case n <= 7: // conversions
	case n == 8 || n == 10 || n == 12 || n == 14: // memory.init, memory.copy, table.init, table.copy
		r.u32()
		r.u32()
	case n <= 17:
		r.u32()
	default:
		return 0, refuse("it has an instruction 0xfc %d, which is not known here", n)
	}
	return prefixBulk<<16 | opcode(n), nil
}

// vector reads an instruction for 128 bits.
func (r *reader) vector() (opcode, error) {
	n := r.u32()
	switch {
	case n <= 11 || n == 92 || n == 93: // loads and stores
		r.place()
	case n == 12 || n == 13: // a constant, a shuffle
		r.take(16)
	case n >= 21 && n <= 34: // a lane
		r.byte()
	case n >= 84 && n <= 91: // a lane, loaded or stored
		r.place()
		r.byte()
	case n > 255:
		return 0, refuse("it has an instruction 0xfd %d, which is not known here", n)
	}
	return prefixVector<<16 | opcode(n), nil
}
