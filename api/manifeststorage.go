package api

import (
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

const (
	minLag      = 100 * time.Millisecond
	minLagBytes = 1 << 20
)

// replicationModes are those that a standing replication can have.
var replicationModes = []string{"async", "flush", "sync"}

// storage reads how the volumes are replicated.
func (d *decoder) storage(node ast.Node, path string) *godwitv1.StorageSpec {
	storage := &godwitv1.StorageSpec{Mode: replicationModes[0]}
	d.mapping(node, path, []field{
		{name: "replicateTo", required: true, read: d.name(&storage.ReplicateTo)},
		{name: "mode", read: func(node ast.Node, path string) {
			text, ok := d.text(node, path)
			if ok && !slices.Contains(replicationModes, text) {
				d.fail(node, path, "%q is no mode: want %s", shorten(text), strings.Join(replicationModes, ", "))
			} else if ok {
				storage.Mode = text
			}
		}},
		{name: "maxLag", read: func(node ast.Node, path string) {
			text, ok := d.text(node, path)
			if !ok {
				return
			}
			lag, err := time.ParseDuration(text)
			switch {
			case err != nil:
				d.fail(node, path, "%q is no length of time, such as 5s", shorten(text))
			case lag < minLag || lag%time.Millisecond != 0:
				d.fail(node, path, "want at least %v, in whole milliseconds, got %v", minLag, lag)
			default:
				storage.MaxLagMs = lag.Milliseconds()
			}
		}},
		{name: "maxLagBytes", read: d.size(&storage.MaxLagBytes, minLagBytes, 1)},
	})
	return storage
}
