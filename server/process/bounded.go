package process

// maxTable bounds the entries of a table to begin with.
const maxTable = 1 << 20

// bounded refuses a section whose lengths promise more than there is: a compiler makes room for what they say, before it looks for it.
func bounded(id byte, r reader) error {
	var err error
	switch id {
	case sectionCustom, sectionStart, sectionCount:
		return nil
	case sectionType:
		for range r.count() {
			r.byte()
			r.take(int(r.count()))
			r.take(int(r.count()))
		}
	case sectionTable:
		err = r.tables()
	case sectionExport:
		for range r.count() {
			r.name()
			r.byte()
			r.u32()
		}
	case sectionElement:
		for range r.count() {
			if err = r.elements(); err != nil {
				break
			}
		}
	case sectionData:
		for range r.count() {
			if err = r.data(); err != nil {
				break
			}
		}
	default: // a section of things that have at least a byte each, or one that is not known
		r.count()
	}
	if err == nil && r.bad {
		err = refuse("its section %d is damaged", id)
	}
	return err
}

func (r *reader) tables() error {
	for range r.count() {
		r.byte()
		most := r.byte()
		n := r.u32()
		if most == 1 {
			r.u32()
		}
		if n > maxTable {
			return refuse("it has a table of %d entries, at most %d are allowed", n, maxTable)
		}
	}
	return nil
}

// elements reads one segment of elements. The bits of its first number: 1 not active, 2 names a table, or only declares; 4 expressions.
func (r *reader) elements() error {
	form := r.u32()
	if form&1 == 0 {
		if form&2 != 0 {
			r.u32()
		}
		if err := r.expression(); err != nil {
			return err
		}
	}
	if form&3 != 0 {
		r.byte()
	}
	for range r.count() {
		if form&4 == 0 {
			r.u32()
		} else if err := r.expression(); err != nil {
			return err
		}
	}
	return nil
}

// data reads one segment of data: active, passive, or active with the number of a memory.
func (r *reader) data() error {
	form := r.u32()
	if form == 2 {
		r.u32()
	}
	if form != 1 {
		if err := r.expression(); err != nil {
			return err
		}
	}
	r.take(int(r.count()))
	return nil
}
