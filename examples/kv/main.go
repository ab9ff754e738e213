//go:build wasip1

// Command kv is a key-value service as a WebAssembly process of the DVS: a program with a map, which knows nothing of endpoints, moves or
// copies. Build it with
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o kv.wasm .
//
// and run it on a node with
//
//	godwit dvs run kv.wasm --container shop --name kv
//	godwit dvs call shop kv 'set colour blue'
//
// The requests are words: see the usage below.
package main

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
)

const usage = "want: set KEY VALUE | get KEY | delete KEY | add KEY NUMBER | count | checksum"

func main() {}

// store is the whole state.
type store map[string]string

var words = store{}

// handle answers one request. The first word of an answer is ok, none or error.
func (s store) handle(request []byte) []byte {
	verb, rest, _ := strings.Cut(string(request), " ")
	key, value, two := strings.Cut(rest, " ")
	switch {
	case verb == "set" && two:
		s[key] = value
		return []byte("ok")
	case verb == "get" && key != "":
		value, ok := s[key]
		if !ok {
			return []byte("none")
		}
		return []byte("ok " + value)
	case verb == "delete" && key != "":
		delete(s, key)
		return []byte("ok")
	case verb == "add" && two:
		return s.add(key, value)
	case verb == "count" && rest == "":
		return fmt.Append(nil, "ok ", len(s))
	case verb == "checksum" && rest == "":
		return fmt.Appendf(nil, "ok %016x", s.checksum())
	default:
		return []byte("error: " + usage)
	}
}

// add adds to a number and returns the sum: what is done twice shows.
func (s store) add(key, value string) []byte {
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return []byte("error: " + err.Error())
	}
	old, _ := strconv.ParseInt(s[key], 10, 64)
	s[key] = strconv.FormatInt(old+n, 10)
	return []byte("ok " + s[key])
}

// checksum is the same for the same content.
func (s store) checksum() uint64 {
	keys := make([]string, 0, len(s))
	for key := range s {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	h := fnv.New64a()
	for _, key := range keys {
		fmt.Fprintf(h, "%q=%q\n", key, s[key])
	}
	return h.Sum64()
}
