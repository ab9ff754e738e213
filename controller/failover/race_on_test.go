//go:build race

package failover_test

// scheduleShare is the part of the schedules that is run: the race detector makes them some ten times slower, and has little to see here.
const scheduleShare = 20
