package node_test

import (
	"fmt"
	"net/rpc"
	"testing"

	"github.com/godwit-project/godwit/dvs"
)

// BenchmarkTwoNodes compares asking over two nodes (each a process, linked by loopback TCP; client and server are processes of their own)
// with net/rpc straight over loopback TCP.
func BenchmarkTwoNodes(b *testing.B) {
	c := startCluster(b, "a", "b")
	c.serve(b, "a", "kv", false, 0)
	server := start(b, "server")
	addr := freeAddr(b)
	server.must(b, "netrpc", request{Socket: addr})
	for _, clients := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("net-rpc/%d", clients), func(b *testing.B) {
			calls := make([]func() error, clients)
			for i := range calls {
				conn, err := rpc.Dial("tcp", addr)
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { _ = conn.Close() })
				in := make([]byte, benchSize)
				calls[i] = func() error {
					var out []byte
					return conn.Call("Echo.Do", in, &out)
				}
			}
			runClients(b, calls)
		})
		b.Run(fmt.Sprintf("dvs-one-session/%d", clients), func(b *testing.B) {
			one := connect(b, c.socket["b"], dvs.Options{})
			calls := make([]func() error, clients)
			for i := range calls {
				calls[i] = benchClient(b, one, "kv")
			}
			runClients(b, calls)
		})
		b.Run(fmt.Sprintf("dvs/%d", clients), func(b *testing.B) {
			calls := make([]func() error, clients)
			for i := range calls {
				calls[i] = benchSession(b, c.socket["b"], "kv", dvs.Options{})
			}
			runClients(b, calls)
			st := c.node["b"].must(b, "info", request{}).Stats
			b.ReportMetric(float64(st.Out)/float64(max(st.Writes, 1)), "packets/write")
		})
	}
}
