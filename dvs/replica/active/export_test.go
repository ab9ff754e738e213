package active

import (
	"maps"
	"slices"

	"github.com/godwit-project/godwit/dvs/replica/state"
)

// WithoutTable returns an encoded image without its table of replies.
func WithoutTable(b []byte) []byte {
	i, err := decodeImage(b)
	must(err)
	i.state.Table = state.Table{}
	return i.encode(slices.Sorted(maps.Keys(i.members)))
}
