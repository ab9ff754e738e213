//go:build !race

package passive_test

const raceEnabled = false
