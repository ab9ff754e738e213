package main

import (
	"math"
	"slices"
	"time"
)

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// quantile returns the value that the share q of all are not above, and of two in the middle their mean; NaN of none.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	low, share := math.Modf(at)
	high := min(int(low)+1, len(sorted)-1)
	return sorted[int(low)]*(1-share) + sorted[high]*share
}

// figures are the values of one thing, measured several times.
type figures []float64

// of collects a value of each.
func of[T any](all []T, value func(T) float64) figures {
	out := make(figures, 0, len(all))
	for _, one := range all {
		out = append(out, value(one))
	}
	return out
}

func (f figures) median() float64 { return quantile(f, 0.5) }
