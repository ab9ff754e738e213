package storage

import "bytes"

// isZero says whether p is all zeroes, at the speed of a comparison: each byte is equal to its neighbour and the first is 0.
func isZero(p []byte) bool {
	return len(p) == 0 || p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1])
}
