//go:build !race

package failover_test

// scheduleShare is the part of the schedules that is run: all.
const scheduleShare = 1
