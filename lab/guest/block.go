//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// blockSize is the unit of disk writes. A block on the disk, all numbers little-endian:
//
//	 0  8  magic
//	 8  8  boot: a number drawn at boot; writes of an earlier boot are not ours to vouch for
//	16  8  sequence number of the write, from 1
//	24  8  block number: a block that landed in the wrong place is found out
//	32  4  CRC-32C over bytes 0..31 and 36..4095
//	36  4  zero
//	40     filler that follows from boot, sequence and block
const blockSize = 4096

const (
	blockMagic  = 0x31_42_54_49_57_44_4f_47 // "GODWITB1"
	checksumAt  = 32
	fillerAt    = 40
	sequenceMix = 0x9E3779B97F4A7C15
)

var (
	errBlank   = errors.New("no stamp")
	errCorrupt = errors.New("stamp or content damaged")
)

// stamp is what a block says of itself.
type stamp struct {
	boot, sequence, block uint64
}

func (s stamp) seed() uint64 { return s.boot ^ s.sequence*sequenceMix ^ s.block<<32 }

// encode fills b, which is one block long.
func (s stamp) encode(b []byte, table *crc32.Table) {
	binary.LittleEndian.PutUint64(b[0:], blockMagic)
	binary.LittleEndian.PutUint64(b[8:], s.boot)
	binary.LittleEndian.PutUint64(b[16:], s.sequence)
	binary.LittleEndian.PutUint64(b[24:], s.block)
	binary.LittleEndian.PutUint64(b[checksumAt:], 0)
	fill(b[fillerAt:blockSize], s.seed())
	binary.LittleEndian.PutUint32(b[checksumAt:], checksum(b, table))
}

// decode returns errBlank for a block that was never written by this program, errCorrupt for one that has been damaged.
func decode(b []byte, table *crc32.Table) (stamp, error) {
	if binary.LittleEndian.Uint64(b) != blockMagic {
		if bytes.Count(b, []byte{0}) == len(b) {
			return stamp{}, errBlank
		}
		return stamp{}, errCorrupt
	}
	if binary.LittleEndian.Uint32(b[checksumAt:]) != checksum(b, table) {
		return stamp{}, errCorrupt
	}
	return stamp{
		boot:     binary.LittleEndian.Uint64(b[8:]),
		sequence: binary.LittleEndian.Uint64(b[16:]),
		block:    binary.LittleEndian.Uint64(b[24:]),
	}, nil
}

func checksum(b []byte, table *crc32.Table) uint32 {
	return crc32.Update(crc32.Checksum(b[:checksumAt], table), table, b[checksumAt+4:blockSize])
}
