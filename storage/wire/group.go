package wire

import (
	"encoding/binary"
	"fmt"
)

const (
	openedSize = 32
	commitSize = 24
	// maxVolumes bounds a group.
	maxVolumes = 256
)

// Flags of Opened.
const (
	// OpenedComplete: there is a consistent point.
	OpenedComplete uint64 = 1
	// OpenedFresh: nothing was ever written to the replica; it reads as zeroes.
	OpenedFresh uint64 = 2
)

// Open opens a connection from the source of a group.
type Open struct {
	Version             uint16
	Session, Connection uint64
	Name                string
	// Volumes in the order of their numbers.
	Volumes []OpenVolume
}

// OpenVolume is one volume of a group; Size is in bytes.
type OpenVolume struct {
	Name string
	Size uint64
}

// Append adds the encoded value to b: version 2, session 8, connection 8, name, count 2, and for each volume size 8 and name;
// names have their length before them in 2 bytes.
func (o *Open) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, o.Version)
	b = binary.BigEndian.AppendUint64(b, o.Session)
	b = binary.BigEndian.AppendUint64(b, o.Connection)
	b = appendName(b, o.Name)
	b = binary.BigEndian.AppendUint16(b, uint16(len(o.Volumes)))
	for _, v := range o.Volumes {
		b = binary.BigEndian.AppendUint64(b, v.Size)
		b = appendName(b, v.Name)
	}
	return b
}

func appendName(b []byte, name string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(name))), name...)
}

// ParseOpen reads what Append wrote; nothing may follow it. Of another version only the version is read.
func ParseOpen(b []byte) (Open, error) {
	p := parser{b: b}
	o := Open{Version: p.uint16()}
	if p.bad {
		return Open{}, fmt.Errorf("%w: open of %d bytes", ErrCorrupt, len(b))
	}
	if o.Version != Version {
		return o, nil
	}
	o.Session, o.Connection, o.Name = p.uint64(), p.uint64(), p.name()
	n := int(p.uint16())
	for range min(n, maxVolumes) {
		o.Volumes = append(o.Volumes, OpenVolume{Size: p.uint64(), Name: p.name()})
	}
	if p.bad || n > maxVolumes || len(p.b) > 0 {
		return Open{}, fmt.Errorf("%w: open of %d bytes, %d volumes", ErrCorrupt, len(b), n)
	}
	return o, nil
}

// parser takes values from the front of b; bad says that b was too short once.
type parser struct {
	b   []byte
	bad bool
}

func (p *parser) take(n int) []byte {
	if p.bad || len(p.b) < n {
		p.bad = true
		return make([]byte, n)
	}
	out := p.b[:n]
	p.b = p.b[n:]
	return out
}

func (p *parser) uint16() uint16 { return binary.BigEndian.Uint16(p.take(2)) }
func (p *parser) uint64() uint64 { return binary.BigEndian.Uint64(p.take(8)) }
func (p *parser) name() string   { return string(p.take(int(p.uint16()))) }

// Opened is the replica's answer: where it stands.
type Opened struct {
	// Lineage changes when the replica's content does otherwise than by the next epoch.
	Lineage uint64
	// Committed is its last epoch, Time when the source was there, in Unix nanoseconds.
	Committed uint64
	Time      uint64
	Flags     uint64
}

// Append adds the four values to b.
func (o *Opened) Append(b []byte) []byte {
	for _, x := range []uint64{o.Lineage, o.Committed, o.Time, o.Flags} {
		b = binary.BigEndian.AppendUint64(b, x)
	}
	return b
}

// ParseOpened reads what Append wrote.
func ParseOpened(b []byte) (Opened, error) {
	if len(b) != openedSize {
		return Opened{}, fmt.Errorf("%w: opened of %d bytes", ErrCorrupt, len(b))
	}
	p := parser{b: b}
	return Opened{p.uint64(), p.uint64(), p.uint64(), p.uint64()}, nil
}

// Commit ends an epoch.
type Commit struct {
	// Time is when it was cut, in Unix nanoseconds; Frames and Content count the data and zero frames in it and their bytes.
	Time, Frames, Content uint64
}

// Append adds the three values to b.
func (c *Commit) Append(b []byte) []byte {
	for _, x := range []uint64{c.Time, c.Frames, c.Content} {
		b = binary.BigEndian.AppendUint64(b, x)
	}
	return b
}

// ParseCommit reads what Append wrote.
func ParseCommit(b []byte) (Commit, error) {
	if len(b) != commitSize {
		return Commit{}, fmt.Errorf("%w: commit of %d bytes", ErrCorrupt, len(b))
	}
	p := parser{b: b}
	return Commit{p.uint64(), p.uint64(), p.uint64()}, nil
}

// AppendKeep adds a cut's time to live in seconds (0: for ever) and its name to b.
func AppendKeep(b []byte, seconds uint64, name string) []byte {
	return append(binary.BigEndian.AppendUint64(b, seconds), name...)
}

// ParseKeep reads what AppendKeep wrote.
func ParseKeep(b []byte) (seconds uint64, name string, err error) {
	if len(b) <= 8 {
		return 0, "", fmt.Errorf("%w: cut without a name", ErrCorrupt)
	}
	return binary.BigEndian.Uint64(b), string(b[8:]), nil
}
