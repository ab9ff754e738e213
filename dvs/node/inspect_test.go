package node_test

import (
	"os"
	"testing"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/endpoint"
)

// Line 28: a node says what it knows of endpoints, links, and what has passed.
func TestLine28ANodeSaysWhatItKnows(t *testing.T) {
	a, b := pair(t)
	echo(t, bind(t, connect(t, a.path, dvs.Options{Program: "stock"}), "s", dvs.BindOptions{}))
	c := connect(t, b.path, dvs.Options{})
	for range 10 {
		if _, err := c.SendRec(patient(t), "s", nil); err != nil {
			t.Fatal(err)
		}
	}
	here, there := a.Endpoints()[0], b.Endpoints()[0]
	if here.Program != "stock" || here.PID != os.Getpid() || here.Node != "a" || here.State != endpoint.Open || here.Container != "c" {
		t.Errorf("at its own node: %+v", here)
	}
	if there.Node != "a" || there.PID != 0 || there.Watchers != 1 || there.Version != here.Version {
		t.Errorf("at the other: %+v", there)
	}
	if l := b.Links()[0]; l.Node != "a" || !l.Up {
		t.Errorf("%+v", l)
	}
	if st := b.Stats(); st.Out < 10 || st.In < 10 || st.Writes == 0 {
		t.Errorf("%+v", st)
	}
}
