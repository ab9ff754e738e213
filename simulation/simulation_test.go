package simulation

import (
	"errors"
	"runtime"
	"testing"
)

var flags = Register()

var errViolated = errors.New("violated")

func TestTheFirstViolatedScheduleIsToldAlsoWhenALaterOneIsFoundAfterIt(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	begun, counted := make(chan struct{}), make(chan struct{})
	c := Core[bool, uint64]{
		Flags: flags,
		Live: func(_, schedule uint64, _, _ bool) (uint64, []string, error) {
			switch schedule {
			case 7:
				<-begun
				return schedule, nil, errViolated
			case 8:
				close(begun)
				<-counted
				return schedule, nil, errViolated
			}
			return schedule, nil, nil
		},
		Add: func(sum *uint64, schedule uint64) {
			if *sum += schedule; schedule == 7 {
				close(counted)
			}
		},
	}
	if schedule, sum, why := c.run(1, false, 100); schedule != 7 || !errors.Is(why, errViolated) || sum != 8*9/2 {
		t.Errorf("schedule %d: %v, sum %d", schedule, why, sum)
	}
}

func TestAllSchedulesAreRunOfAMachineThatIsRightAndOnlyThoseThatAreAskedFor(t *testing.T) {
	first := *flags.first
	defer func() { *flags.first = first }()
	*flags.first = 14
	c := Core[bool, uint64]{
		Flags: flags,
		Live:  func(_, schedule uint64, _, _ bool) (uint64, []string, error) { return schedule, nil, nil },
		Add:   func(sum *uint64, schedule uint64) { *sum += schedule },
	}
	if schedule, sum, why := c.run(1, false, 3); schedule != -1 || why != nil || sum != 14+15+16 {
		t.Errorf("schedule %d: %v, sum %d", schedule, why, sum)
	}
}
