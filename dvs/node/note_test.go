package node_test

import (
	"fmt"
	"testing"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/node"
)

// A notification to a name of which neither program nor node has heard waits for it, also where the program has talked through shared memory before: that
// is not in order with the socket, by which the node hears of the name.
func TestANotificationToAnUnknownNameWaits(t *testing.T) {
	const names = 300
	_, path := startNode(t, node.Options{Name: "a"})
	echo(t, bind(t, connect(t, path, dvs.Options{NodeOnly: true}), "s", dvs.BindOptions{}))
	client, server := connect(t, path, dvs.Options{}), connect(t, path, dvs.Options{})
	if _, err := client.SendRec(patient(t), "s", nil); err != nil {
		t.Fatal(err)
	}
	for i := range names {
		if err := client.Notify(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	var clients []*dvs.Client
	for i := range names { // of callers of whom the node has not heard either
		c, err := client.Client()
		if err == nil {
			err = c.Notify(fmt.Sprint("from ", i))
		}
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	for i := range names {
		e := bind(t, server, fmt.Sprint("from ", i), dvs.BindOptions{})
		if m, err := e.Receive(patient(t), dvs.Any); err != nil {
			t.Fatalf("from %d: %v, %v", i, m, err)
		}
		clients[i].Close()
	}
	for i := range names {
		e := bind(t, server, fmt.Sprint(i), dvs.BindOptions{})
		if m, err := e.Receive(patient(t), dvs.Any); err != nil {
			t.Fatalf("%d: %v, %v", i, m, err)
		}
	}
}
