package journal

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

var runs = flag.Int("journal.runs", 60, "how many random histories to run")

type image [][]byte

func (m image) clone() image {
	out := make(image, len(m))
	for i := range m {
		out[i] = bytes.Clone(m[i])
	}
	return out
}

// model is what the journal should be.
type model struct {
	t       *testing.T
	rng     *rand.Rand
	fs      *memFS
	disks   []*memFile
	j       *Journal
	staged  image // with the epoch under way
	current image // the last that was committed
	images  map[uint64]image
	under   uint64
	acked   uint64 // the last that is durable
	last    uint64 // the last that is sealed
	tried   uint64 // the last whose commit was begun
	cuts    map[string]image
	names   int
	fill    byte
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{t: t, rng: rand.New(rand.NewPCG(seed, 3)), images: map[uint64]image{}, cuts: map[string]image{}}
	m.fs = newMemFS(m.rng)
	for range 1 + m.rng.IntN(3) {
		size := int64(512 * (1 + m.rng.IntN(200)))
		m.disks = append(m.disks, &memFile{fs: m.fs, content: make([]byte, size), durable: make([]byte, size)})
		m.current = append(m.current, make([]byte, size))
	}
	m.staged = m.current.clone()
	return m
}

func (m *model) open(complete bool) error {
	disks := make([]Disk, len(m.disks))
	for i, d := range m.disks {
		disks[i] = d
	}
	var err error
	sizes := usualSizes()
	if m.rng.IntN(2) == 0 { // with files that are soon full
		sizes.file, sizes.spare, sizes.idle, sizes.checkpoint = 16<<10, 64<<10, 8<<10, 32<<10
	}
	m.j, err = open(m.fs, disks, complete, sizes)
	return err
}

// act does one random thing and returns the journal's error.
func (m *model) act() error {
	switch k := m.rng.IntN(40); {
	case k < 16 && m.under != 0:
		vol := m.rng.IntN(len(m.disks))
		size := m.disks[vol].Size()
		off := m.rng.Int64N(size/512) * 512
		length := min(size-off, 512*(1+m.rng.Int64N(40)))
		m.fill++
		data := bytes.Repeat([]byte{m.fill}, int(length))
		if m.rng.IntN(6) == 0 {
			data = nil
		}
		err := m.j.Put(vol, off, length, data)
		if err == nil && data == nil {
			clear(m.staged[vol][off : off+length])
		} else if err == nil {
			copy(m.staged[vol][off:], data)
		}
		return err
	case k < 20 && m.under == 0:
		number := max(m.acked, m.tried) + 1 + m.rng.Uint64N(2)
		err := m.j.Begin(number)
		if err == nil {
			m.under = number
			m.staged = m.current.clone()
			for i := range m.disks {
				if !m.j.Point().Complete { // a first copy goes on with what came before
					m.staged[i] = bytes.Clone(m.disks[i].content)
				}
			}
		}
		return err
	case k < 26 && m.under != 0:
		m.tried = m.under
		m.images[m.under] = m.staged.clone()
		err := m.j.Seal(m.under, time.Unix(int64(m.under), 0))
		if err == nil {
			m.last, m.current, m.under = m.under, m.images[m.under], 0
		}
		if err == nil && m.rng.IntN(2) == 0 {
			err = m.sync()
		}
		return err
	case k == 26:
		m.discard()
	case k < 34:
		_, err := m.j.Apply()
		return err
	case k == 34:
		if err := m.j.Checkpoint(); err != nil || m.rng.IntN(2) == 0 {
			return err
		}
		return m.j.Trim()
	case k == 35 && m.j.Point().Complete:
		m.names++
		name := fmt.Sprint("cut", m.names)
		_, err := m.j.Cut(name, time.Time{})
		if err == nil {
			m.cuts[name] = m.images[m.j.Point().Epoch]
		}
		return err
	case k == 36 && len(m.cuts) > 0:
		name := m.anyCut()
		if err := m.j.DeleteCut(name); err != nil {
			return err
		}
		delete(m.cuts, name)
	case k == 37 && len(m.cuts) > 0 && m.under == 0:
		name := m.anyCut()
		number := m.last + 1
		m.tried = number
		m.images[number] = m.cuts[name]
		err := m.j.Restore(name)
		if err == nil {
			m.acked, m.last, m.current = number, number, m.images[number]
		}
		return err
	case k == 38 && m.rng.IntN(2) == 0:
		m.fs.full = true
		defer func() { m.fs.full = false }()
		return m.act()
	}
	return nil
}

func (m *model) sync() error {
	err := m.j.Sync()
	if err == nil {
		m.acked = max(m.acked, m.last)
	}
	return err
}

func (m *model) anyCut() string {
	names := make([]string, 0, len(m.cuts))
	for name := range m.cuts {
		names = append(names, name)
	}
	slices.Sort(names)
	return names[m.rng.IntN(len(names))]
}

func (m *model) discard() {
	m.j.Discard()
	m.under = 0
	m.staged = m.current.clone()
}

// crash kills the process, or cuts the power, and opens again.
func (m *model) crash(complete bool) {
	m.t.Helper()
	if m.rng.IntN(2) == 0 {
		m.fs.powerCut(m.disks)
	}
	m.fs.ops, m.fs.full = -1, false
	if err := m.open(complete); err != nil {
		m.t.Fatalf("open after a crash: %v", err)
	}
	p := m.j.Point()
	if p.Epoch != 0 && m.images[p.Epoch] == nil || p.Epoch > m.tried || p.Epoch < m.acked {
		m.t.Fatalf("after a crash it is at epoch %d; %d was acknowledged, %d begun", p.Epoch, m.acked, m.tried)
	}
	if p.Complete && m.images[p.Epoch] != nil {
		m.current = m.images[p.Epoch]
	}
	m.acked, m.last, m.under = p.Epoch, p.Epoch, 0
	m.staged = m.current.clone()
	listed, err := m.j.Cuts()
	if err != nil {
		m.t.Fatal(err)
	}
	have := map[string]bool{}
	for _, c := range listed {
		have[c.Name] = true
		if m.cuts[c.Name] == nil { // its making was interrupted after it was durable
			m.cuts[c.Name] = m.images[c.Epoch]
		}
	}
	for name := range m.cuts {
		if !have[name] {
			delete(m.cuts, name) // its deletion was interrupted after that was durable; a lost cut is found by lost
		}
	}
}

func (m *model) check() {
	m.t.Helper()
	if err := errors.Join(m.sync(), m.j.Settle()); err != nil {
		m.t.Fatalf("settle: %v", err)
	}
	if p := m.j.Point(); p.Complete {
		for vol, d := range m.disks {
			if !bytes.Equal(d.content, m.current[vol]) {
				m.t.Fatalf("volume %d is not what it was at the end of epoch %d: it differs at %d", vol, p.Epoch, differs(d.content, m.current[vol]))
			}
		}
	}
	for name, want := range m.cuts {
		v, err := m.j.OpenCut(name)
		if err != nil {
			m.t.Fatal(err)
		}
		for vol := range m.disks {
			got := make([]byte, len(want[vol]))
			if err := v.ReadAt(vol, got, 0); err != nil {
				m.t.Fatal(err)
			}
			if !bytes.Equal(got, want[vol]) {
				m.t.Fatalf("cut %s of volume %d (epoch %d) differs at %d", name, vol, v.c.Epoch, differs(got, want[vol]))
			}
			off := m.rng.Int64N(int64(len(got)))
			part := make([]byte, m.rng.Int64N(int64(len(got))-off)+1)
			if err := v.ReadAt(vol, part, off); err != nil || !bytes.Equal(part, want[vol][off:off+int64(len(part))]) {
				m.t.Fatalf("cut %s of volume %d at %d+%d differs (%v)", name, vol, off, len(part), err)
			}
		}
		v.Close()
	}
}

func differs(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

func TestWhateverIsKilledItOpensAtTheEndOfAnEpoch(t *testing.T) {
	for seed := range uint64(*runs) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) { runHistory(t, seed) })
	}
}

func runHistory(t *testing.T, seed uint64) {
	m := newModel(t, seed)
	complete := seed%2 == 0
	if complete {
		m.images[0] = m.current.clone()
	}
	if err := m.open(complete); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		m.fs.ops = m.rng.IntN(150)
		if m.rng.IntN(3) == 0 {
			m.fs.ops = -1
		}
		for range m.rng.IntN(200) {
			err := m.act()
			if errors.Is(err, errKilled) || errors.Is(err, ErrSpoiled) {
				break
			}
			if err != nil {
				m.discard() // a full disk: the epoch is given up
				if p := m.j.Point(); p.Epoch < m.acked || p.Epoch > m.last {
					t.Fatalf("a failure (%v) moved it from epoch %d to %d", err, m.acked, p.Epoch)
				}
			}
			if m.rng.IntN(30) == 0 && m.fs.ops < 0 {
				m.check()
			}
		}
		m.crash(complete)
		if m.j.Err() == nil {
			m.check()
		} else if m.fs.ops < 0 {
			t.Skip("spoiled by a sync that was killed: that ends a replica")
		}
	}
}
