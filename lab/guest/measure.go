//go:build linux

package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// longestMeasurement bounds, in seconds, what one command may take.
const longestMeasurement = 60

// speed is the answer to measure: of operations on blocks of 4 KiB at random places, one after the other, past the page cache.
type speed struct {
	Operations int     `json:"operations"`
	PerSecond  float64 `json:"per_second"`
	MedianUs   float64 `json:"median_us"` // of one operation, by the guest's clock
	P99Us      float64 `json:"p99_us"`
}

// measure reads, writes, or writes and flushes each (sync), for so many seconds. It writes over what is on the disk, so it is
// refused where that is somebody's.
func (m *machine) measure(words []string) (speed, error) {
	if m.disk == nil {
		return speed{}, errNoDisk
	}
	if len(words) != 2 || words[0] != "read" && words[0] != "write" && words[0] != "sync" {
		return speed{}, errUsage
	}
	seconds, err := strconv.ParseFloat(words[1], 64)
	if err != nil || !(seconds > 0 && seconds <= longestMeasurement) {
		return speed{}, fmt.Errorf("measure for %q seconds: want more than 0, and %d at most", words[1], longestMeasurement)
	}
	if words[0] != "read" && (m.files.mounted() != nil || m.disk.issued.Load() > 0) {
		return speed{}, fmt.Errorf("measure %s: it would write over what is on the disk; boot with godwit.writes=0, and do not mount it", words[0])
	}
	return m.disk.measure(words[0], time.Duration(seconds*float64(time.Second)))
}

func (d *disk) measure(what string, length time.Duration) (speed, error) {
	buffer, err := alignedBlock()
	if err != nil {
		return speed{}, err
	}
	defer func() { _ = unix.Munmap(buffer) }()
	random := rand.New(rand.NewPCG(1, 2)) // the same places each time, so that runs can be compared
	fill(buffer, random.Uint64())
	var took []time.Duration
	began := time.Now()
	for last := began; last.Sub(began) < length; {
		if err := d.operate(what, random.Uint64N(d.blocks), buffer); err != nil {
			return speed{}, fmt.Errorf("measure %s: %w", what, err)
		}
		now := time.Now()
		took = append(took, now.Sub(last))
		last = now
	}
	seconds := time.Since(began).Seconds()
	slices.Sort(took)
	return speed{
		Operations: len(took), PerSecond: float64(len(took)) / seconds,
		MedianUs: microseconds(took[len(took)/2]), P99Us: microseconds(took[len(took)*99/100]),
	}, nil
}

func (d *disk) operate(what string, block uint64, buffer []byte) error {
	at := int64(block * blockSize)
	if what == "read" {
		_, err := d.file.ReadAt(buffer, at)
		return err
	}
	_, err := d.file.WriteAt(buffer, at)
	if err == nil && what == "sync" {
		err = unix.Fdatasync(int(d.file.Fd()))
	}
	return err
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
