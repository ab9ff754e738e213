//go:build race

package replica_test

// raceEnabled makes simulations shorter: the race detector has nothing to find in a core without goroutines.
const raceEnabled = true
