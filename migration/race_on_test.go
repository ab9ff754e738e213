//go:build race

package migration_test

// scheduleShare: the race detector makes schedules some ten times slower, and has little to see in pure code.
const scheduleShare = 20
