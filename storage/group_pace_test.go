package storage

import (
	"testing"
	"time"

	"github.com/godwit-project/godwit/storage/changes"
	"github.com/godwit-project/godwit/storage/wire"
)

type noMarks struct{}

func (noMarks) Mark(_, _ int64)  {}
func (noMarks) Clear(_, _ int64) {}
func (noMarks) Grain() int64     { return 64 << 10 }

// writing is a group of one volume to which so much was written in the second before now.
func writing(size, bytes int64, mode string, now time.Time) *Group {
	g := &Group{
		mode: mode, limits: Limits{Bytes: 256 << 20, Lag: 30 * time.Second, Interval: 100 * time.Millisecond},
		tracker: changes.NewTracker(1, []int64{size}, []changes.Marks{noMarks{}}),
	}
	g.tracker.Mark(0, 0, bytes)
	g.firstWrite, g.pause = now.Add(-time.Second), 4*time.Second
	return g
}

func TestAnEpochIsCutBeforeTheBoundIsNear(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		size, written, pace int64
		mode                string
		due                 bool
	}{
		"more than the bound is never lacking":         {256 << 20, 256 << 20, 0, ModeAsync, false},
		"far from the bound":                           {1 << 30, 32 << 20, 0, ModeAsync, false},
		"nothing known of the pace":                    {1 << 30, 100 << 20, 0, ModeAsync, true},
		"as fast as the writers":                       {1 << 30, 100 << 20, 100 << 20, ModeAsync, true},
		"much faster than the writers":                 {1 << 30, 100 << 20, 1 << 30, ModeAsync, false},
		"much faster, and much":                        {1 << 30, 180 << 20, 1 << 30, ModeAsync, true},
		"much slower than the writers":                 {1 << 30, 40 << 20, 8 << 20, ModeAsync, true},
		"somebody may come to wait for little":         {1 << 30, 63 << 20, 1 << 30, ModeFlush, false},
		"somebody may come to wait for a quarter":      {1 << 30, 64 << 20, 1 << 30, ModeFlush, true},
		"somebody may come to wait for a small volume": {64 << 20, 64 << 20, 1 << 30, ModeFlush, true},
	} {
		g := writing(c.size, c.written, c.mode, now)
		g.pace.perSecond = c.pace
		due, after := g.dueLocked(now)
		if due != c.due || !due && (after <= 0 || after > g.limits.Interval) {
			t.Errorf("%s: due %v, asked again after %v", name, due, after)
		}
	}
	g := writing(256<<20, 1<<20, ModeAsync, now)
	if due, _ := g.dueLocked(now.Add(3 * time.Second)); !due {
		t.Error("it is not due when the sender has rested")
	}
}

func TestTheSenderRestsLongerWhereMostIsWrittenOver(t *testing.T) {
	for name, c := range map[string]struct {
		mode       string
		work, took time.Duration
		over       bool
		want       time.Duration
	}{
		"little work":                       {ModeAsync, 10 * time.Millisecond, 20 * time.Millisecond, true, 1500 * time.Millisecond},
		"much work":                         {ModeAsync, time.Second, time.Second, false, 3750 * time.Millisecond},
		"much work, written over":           {ModeAsync, time.Second, time.Second, true, 19 * time.Second},
		"some work, written over":           {ModeAsync, 30 * time.Millisecond, 500 * time.Millisecond, true, 9 * time.Second},
		"a slow link":                       {ModeAsync, time.Second, 9 * time.Second, true, 11 * time.Second},
		"a link that takes most of the lag": {ModeAsync, time.Second, 19 * time.Second, true, 3750 * time.Millisecond},
		"somebody may come to wait":         {ModeFlush, time.Second, time.Second, true, 3750 * time.Millisecond},
	} {
		g := writing(1<<30, 1<<20, c.mode, time.Now())
		if got := g.restLocked(c.work, c.took, c.over); got != c.want {
			t.Errorf("%s: it rests for %v instead of %v", name, got, c.want)
		}
	}
}

func TestThePaceIsThatOfTheSlowOnes(t *testing.T) {
	var p pace
	p.shipped(100<<10, time.Hour) // says nothing
	if p.growth(10, 5, time.Second) != 10 {
		t.Error("something is known of the pace")
	}
	p.shipped(100<<20, time.Second)
	if got := p.growth(50<<20, 20<<20, time.Second); got != 10<<20 {
		t.Errorf("%d are written meanwhile", got)
	}
	p.shipped(50<<20, time.Second)
	slow := p.perSecond
	p.shipped(450<<20, time.Second)
	if slow != 50<<20 || p.perSecond != 150<<20 {
		t.Errorf("%d, then %d", slow, p.perSecond)
	}
}

func TestCompressionIsWorthLittleOnAnIdleLink(t *testing.T) {
	began := time.Unix(0, 0)
	for _, c := range []struct {
		name                  string
		took, stalled, rested time.Duration
		want                  wire.Effort
	}{
		{"a first copy over a slow link", time.Second, 900 * time.Millisecond, 0, wire.Thorough},
		{"a first copy over a fast link", time.Second, 100 * time.Millisecond, 0, wire.Hurried},
		{"a small epoch after a rest", 100 * time.Millisecond, 90 * time.Millisecond, time.Second, wire.Hurried},
		{"an epoch that takes as long as the rest", time.Second, 900 * time.Millisecond, time.Second, wire.Thorough},
		{"the first frames after a rest", 0, 0, time.Second, wire.Hurried},
	} {
		l := &groupLink{began: began, stalled: c.stalled, rested: c.rested}
		if got := l.effort(began.Add(c.took)); got != c.want {
			t.Errorf("%s: effort %d instead of %d", c.name, got, c.want)
		}
	}
}
