package node_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/godwit-project/godwit/dvs"
	"github.com/godwit-project/godwit/dvs/node"
)

// The framing is enough for another language: a client in Python, written from the documentation of package wire.
func TestAPythonClientIsAnswered(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed")
	}
	_, path := startNode(t, node.Options{Name: "a"})
	echo(t, bind(t, connect(t, path, dvs.Options{}), "echo", dvs.BindOptions{}))
	out, err := exec.CommandContext(patient(t), python, "../wire/testdata/python/client.py", path, "c", "echo", "one", "two", "three").CombinedOutput()
	if err != nil || strings.Join(strings.Fields(string(out)), " ") != "one two three" {
		t.Errorf("%v: %s", err, out)
	}
}
