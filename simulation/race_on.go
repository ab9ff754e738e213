//go:build race

package simulation

// raceShare is the part of the schedules that is run: the race detector makes them some ten times slower, and has little to see in a core
// without goroutines.
const raceShare = 20
