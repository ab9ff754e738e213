//go:build !race

package simulation

// raceShare is the part of the schedules that is run: all.
const raceShare = 1
