package replica

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/godwit-project/godwit/dvs/replica/state"
	"github.com/godwit-project/godwit/dvs/replica/watch"
)

const (
	testEvery    = 20 * time.Millisecond
	testPatience = 500 * time.Millisecond
)

func TestTheClockIsTheRealOneWhereNobodyIsLate(t *testing.T) {
	p := newPace(testEvery, testPatience)
	for real := testEvery; real < time.Minute; real += testEvery {
		p.heard("a", real, true)
		if now := p.tick(real); now != real {
			t.Fatalf("at %v it says %v", real, now)
		}
	}
}

func TestWhoSpeaksSeldomIsNotLate(t *testing.T) {
	p := newPace(testEvery, testPatience)
	for real := testEvery; real < time.Minute; real += testEvery {
		if real%(400*time.Millisecond) == 0 {
			p.heard("b", real, real == 8*time.Second) // once it was to speak all the time
		}
		if now := p.tick(real); now != real {
			t.Fatalf("at %v it says %v", real, now)
		}
	}
}

func TestWhoHasNotRunSuspectsNobody(t *testing.T) {
	p := newPace(testEvery, testPatience)
	p.tick(testEvery)
	if now := p.tick(10 * time.Second); now > 3*testEvery {
		t.Errorf("after a pause of 10 s nobody could be heard in, the clock says %v", now)
	}
}

func TestTheClockIsSlowerWhereSignsOfLifeComeLate(t *testing.T) {
	p := newPace(testEvery, testPatience)
	run := func(from, length, between time.Duration) (advance time.Duration) {
		begin := p.now
		for real := from; real < from+length; real += testEvery {
			if between > 0 && real%between < testEvery {
				p.heard("a", real, true)
			}
			p.tick(real)
		}
		return p.now - begin
	}
	if took := run(0, 10*time.Second, 400*time.Millisecond); took < 4*time.Second || took > 6*time.Second {
		t.Errorf("with signs every 400 ms, 10 s are %v", took)
	}
	if took := run(10*time.Second, 10*time.Second, 1900*time.Millisecond); took > 3*time.Second {
		t.Errorf("with signs every 1.9 s, 10 s are %v", took)
	}
	if took := run(20*time.Second, 30*time.Second, 0); took < testPatience {
		t.Errorf("silence of 30 s is only %v", took)
	}
	run(50*time.Second, 2*time.Minute, testEvery)
	if took := run(170*time.Second, 10*time.Second, testEvery); took < 9900*time.Millisecond {
		t.Errorf("long after, 10 s are %v", took)
	}
	p.heard("a", 1000*time.Second, true)
	if p.slow() > 1 {
		t.Errorf("an outage of minutes has made it slower by %v", p.slow())
	}
}

// late is a machine on which processes do not run for some time, again and again: signs of life come late, and so does this one's tick.
type late struct {
	random *rand.Rand
	real   time.Duration
	stall  [2]time.Duration // until when the other, and this one, do not run
}

// next advances to the next moment at which this process runs, and tells whether the other has sent a sign of life since the last one.
func (l *late) next() (spoke bool) {
	for {
		l.real += testEvery
		for i := range l.stall {
			if l.real >= l.stall[i] && l.random.IntN(50) == 0 {
				l.stall[i] = l.real + time.Duration(l.random.ExpFloat64()*float64(150*time.Millisecond)) + 150*time.Millisecond
			}
		}
		spoke = spoke || l.real >= l.stall[0]
		if l.real >= l.stall[1] {
			return spoke
		}
	}
}

// On busy machines a thousand watchers suspect a primary that is late: with the real clock in every minute, with this one hardly ever. One that has
// died is suspected nevertheless, within eight times the patience and the watcher's own lateness.
func TestAPrimaryThatIsLateIsNotTakenForADeadOne(t *testing.T) {
	primary := state.Member{Name: "a", Incarnation: 1}
	suspects := func(seed uint64, adaptive bool) (held int, dead time.Duration) {
		l := &late{random: rand.New(rand.NewPCG(seed, 1))}
		p := newPace(testEvery, testPatience)
		w := watch.New(watch.Options{Self: "b", Peers: []string{"a"}, Grace: int64(testPatience), Calm: int64(2 * testPatience)})
		w.Record(state.Record{Epoch: 1, Primary: primary, Synced: []state.Member{primary}}, 0)
		const dies = time.Minute
		for {
			spoke := l.next() && l.real < dies
			now := l.real
			if adaptive {
				if spoke {
					p.heard("a", l.real, true)
				}
				now = p.tick(l.real)
			}
			if spoke {
				w.Heard("a", int64(now))
			}
			for _, d := range w.Tick(int64(now)) {
				switch {
				case d.Verdict != watch.Hold:
				case l.real < dies:
					held++
				default:
					return held, l.real - dies
				}
			}
			if l.real > 2*dies {
				return held, dies
			}
		}
	}
	var fixed, adaptive int
	var worst time.Duration
	for seed := range uint64(1000) {
		held, _ := suspects(seed, false)
		fixed += held
		held, dead := suspects(seed, true)
		adaptive += held
		worst = max(worst, dead)
	}
	t.Logf("in 1000 minutes of lateness: suspected %d times by the real clock, %d by this one; a dead one after %v at most", fixed, adaptive, worst)
	if fixed < 1000 || adaptive*50 > fixed {
		t.Errorf("suspected %d times by the real clock, %d by this one", fixed, adaptive)
	}
	if worst > 2*mostSlow*testPatience {
		t.Errorf("a dead primary is suspected after %v only", worst)
	}
}
