package replicatest

import (
	"math/rand/v2"
	"testing"
)

// arrivals takes all that is under way, and returns what came from whom to whom, in order.
func arrivals(r *Roads[int], rng *rand.Rand) map[int][]int {
	came := map[int][]int{}
	for {
		to, m, ok := r.Take(rng)
		if !ok {
			return came
		}
		came[to] = append(came[to], m)
	}
}

func TestARoadKeepsItsOrderButWhatIsLongIsOvertaken(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	overtaken := false
	for range 50 {
		r := NewRoads(2, func(m int) bool { return m >= 100 })
		for m := range 5 {
			r.Post(0, 1, 100+m)
			r.Post(0, 1, m)
		}
		if r.Len() != 10 {
			t.Fatalf("%d are under way", r.Len())
		}
		came := arrivals(r, rng)
		short, long := 0, 100
		for i, m := range came[1] {
			switch m {
			case short:
				short++
				overtaken = overtaken || i == 0
			case long:
				long++
			default:
				t.Fatalf("%v came", came)
			}
		}
		if short != 5 || long != 105 || len(came[0]) > 0 {
			t.Fatalf("%v came", came)
		}
	}
	if !overtaken {
		t.Error("nothing long was ever overtaken")
	}
}

func TestARoadThatBreaksLosesAllThatIsOnItAndNothingElse(t *testing.T) {
	r := NewRoads(2, func(m int) bool { return m >= 100 })
	for _, m := range []int{1, 100} {
		r.Post(0, 1, m)
		r.Post(1, 0, m)
	}
	r.Break(0, 1)
	if came := arrivals(r, rand.New(rand.NewPCG(1, 1))); len(came[1]) != 0 || len(came[0]) != 2 {
		t.Errorf("%v came", came)
	}
}
