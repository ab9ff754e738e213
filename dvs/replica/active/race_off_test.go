//go:build !race

package active_test

const raceEnabled = false
