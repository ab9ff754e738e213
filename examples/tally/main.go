// Command tally is a program of its own that moves between machines while its clients go on talking to it: a number and some memory, and not
// a line about moving, nodes or copies. Build it with
//
//	CGO_ENABLED=0 go build -o tally ./examples/tally
//
// and run it on a node with
//
//	godwit dvs run --native --criu ./tally --container shop --name tally
//	godwit dvs call shop tally 'add 5'
//	godwit dvs migrate shop tally --to b
//
// CRIU moves the process as it is. Without --criu a program moves by its own functions, and this one has them too: Snapshot and Restore below.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/godwit-project/godwit/dvs"
)

const usage = "want: add NUMBER | get | fill BYTES"

func main() {
	err := serve(context.Background())
	if errors.Is(err, dvs.ErrMoved) {
		return // another process goes on with the state
	}
	fmt.Fprintln(os.Stderr, "tally:", err)
	os.Exit(1)
}

// tally is the whole state.
type tally struct {
	sum     int64
	ballast []byte
}

// serve answers requests. Where the node is, and what to bind, it has from the environment.
func serve(ctx context.Context) error {
	session, err := dvs.Connect(ctx, "", dvs.Options{})
	if err != nil {
		return err
	}
	defer session.Close()
	var t tally
	e, err := session.Bind(ctx, "", dvs.BindOptions{Snapshot: t.snapshot, Restore: t.restore})
	if err != nil {
		return err
	}
	fmt.Println("tally serves", e.Name(), "at", session.Node())
	for {
		m, err := e.Receive(ctx, dvs.Any)
		if err != nil {
			return err
		}
		_ = e.Reply(m, []byte(t.handle(string(m.Payload)))) // a caller that has gone needs none
	}
}

func (t *tally) handle(request string) string {
	verb, number, _ := strings.Cut(request, " ")
	n, err := strconv.ParseInt(number, 10, 64)
	switch {
	case verb == "get":
	case verb == "add" && err == nil:
		t.sum += n
	case verb == "fill" && err == nil && n >= 0 && n <= 1<<30:
		t.ballast = make([]byte, n)
		for i := range t.ballast {
			t.ballast[i] = byte(i >> 8)
		}
	default:
		return "error: " + usage
	}
	return fmt.Sprint(t.sum)
}

func (t *tally) snapshot() ([]byte, error) {
	return append(binary.LittleEndian.AppendUint64(nil, uint64(t.sum)), t.ballast...), nil
}

func (t *tally) restore(b []byte) error {
	if len(b) < 8 {
		return errors.New("no state of a tally")
	}
	t.sum, t.ballast = int64(binary.LittleEndian.Uint64(b)), append([]byte(nil), b[8:]...)
	return nil
}
