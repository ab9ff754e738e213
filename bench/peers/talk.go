package main

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// compare lets ways take turns, and prints the medians. The ratios of a way that is ours are to the best of the peers, which is another one for throughput than
// for the 99th percentile maybe, and to the bare socket.
func (b *bench) compare(title string, ways []way, ours, peers func(string) bool) error {
	rows := [][]string{{"clients", "way", "calls/s", "median", "99 %", "processor time a call", "throughput / best peer", "median / best peer", "99 % / best peer", "throughput / bare socket"}}
	ways = slices.DeleteFunc(ways, func(w way) bool { return !b.match.MatchString(w.name) })
	for _, clients := range b.clients {
		got := make([][]figures, len(ways))
		for range b.rounds {
			for i, w := range ways {
				f, err := w.run(clients, b.during, b.spent)
				if err != nil {
					return fmt.Errorf("%s, %d clients: %w", w.name, clients, err)
				}
				got[i] = append(got[i], f)
			}
		}
		mid := make([]figures, len(ways))
		var best, bare figures
		for i, w := range ways {
			mid[i] = median(got[i])
			if peers(w.name) && mid[i].rate > best.rate {
				best.rate = mid[i].rate
			}
			if peers(w.name) && (best.p50 == 0 || mid[i].p50 < best.p50) {
				best.p50 = mid[i].p50
			}
			if peers(w.name) && (best.p99 == 0 || mid[i].p99 < best.p99) {
				best.p99 = mid[i].p99
			}
			if strings.HasPrefix(w.name, "bare") {
				bare = mid[i]
			}
		}
		for i, w := range ways {
			row := []string{strconv.Itoa(clients), w.name, fmt.Sprintf("%.0f", mid[i].rate), micros(mid[i].p50), micros(mid[i].p99), micros(mid[i].cpu), "", "", "", ""}
			if ours(w.name) {
				row[6], row[7] = fmt.Sprintf("%.2f", mid[i].rate/best.rate), fmt.Sprintf("%.2f", mid[i].p50.Seconds()/best.p50.Seconds())
				row[8], row[9] = fmt.Sprintf("%.2f", mid[i].p99.Seconds()/best.p99.Seconds()), fmt.Sprintf("%.2f", mid[i].rate/bare.rate)
			}
			rows = append(rows, row)
		}
	}
	b.table(title, rows)
	return nil
}

func median(all []figures) figures {
	pick := func(less func(a, b figures) int) figures {
		slices.SortFunc(all, less)
		return all[len(all)/2]
	}
	return figures{
		rate: pick(func(a, b figures) int { return cmp.Compare(a.rate, b.rate) }).rate,
		p50:  pick(func(a, b figures) int { return cmp.Compare(a.p50, b.p50) }).p50,
		p99:  pick(func(a, b figures) int { return cmp.Compare(a.p99, b.p99) }).p99,
		cpu:  pick(func(a, b figures) int { return cmp.Compare(a.cpu, b.cpu) }).cpu,
	}
}

func isOurs(name string) bool { return strings.HasPrefix(name, "DVS") }
func isPeer(name string) bool { return !isOurs(name) && !strings.HasPrefix(name, "bare") }

// peers starts the servers of the others at sockets of that network, and returns the ways to them, the bare one first.
func (b *bench) peers(network string) ([]order, error) {
	at := func(name string) (string, error) {
		if network == "unix" {
			return b.path(name), nil
		}
		return freePort()
	}
	var addrs [3]string
	for i, op := range []string{"bare", "netrpc", "grpc"} {
		var err error
		if addrs[i], err = at(op); err != nil {
			return nil, err
		}
		c, err := b.start()
		if err == nil {
			_, err = c.tell(order{Op: op, Network: network, Addr: addrs[i]})
		}
		if err != nil {
			return nil, err
		}
	}
	broker, err := b.start()
	if err != nil {
		return nil, err
	}
	url, err := broker.tell(order{Op: "broker"})
	if err != nil {
		return nil, err
	}
	responder, err := b.start()
	if err == nil {
		_, err = responder.tell(order{Op: "nats", Addr: url.Text})
	}
	target := "passthrough:///" + addrs[2]
	if network == "unix" {
		target = "unix:" + addrs[2]
	}
	return []order{
		{Name: "bare", Network: network, Addr: addrs[0]}, {Name: "net/rpc", Network: network, Addr: addrs[1]}, {Name: "gRPC", Addr: target}, {Name: "NATS", Addr: url.Text},
	}, err
}

// together are ways of one program with many clients, each with a connection of its own and (but for the bare one) with one for all.
func together(peers []order) (all []way) {
	for i, o := range peers {
		w := wayTo(o)
		if all = append(all, w); i > 0 {
			all = append(all, shared(w))
		}
	}
	return all
}

// wayTo is the way of one program that an order names.
func wayTo(o order) way {
	switch o.Name {
	case "net/rpc":
		return netrpcWay(o.Network, o.Addr)
	case "gRPC":
		return grpcWay(o.Addr)
	case "NATS":
		return natsWay(o.Addr)
	case "DVS":
		return dvsWay(o.Socket, "echo", make([]byte, payloadSize))
	default:
		return bareWay(o.Network, o.Addr)
	}
}

// apart is a way whose clients are programs of their own.
func (b *bench) apart(o order) way {
	return way{wayTo(o).name + ", a program each", func(clients int) (all []client, end func(), err error) {
		var programs []*child
		end = func() {
			for _, c := range programs {
				c.stop()
			}
			b.children = slices.DeleteFunc(b.children, func(c *child) bool { return slices.Contains(programs, c) })
		}
		o.Op = "client"
		for range clients {
			c, err := b.start()
			if err == nil {
				programs = append(programs, c)
				_, err = c.tell(o)
			}
			if err != nil {
				end()
				return nil, nil, err
			}
			all = append(all, func(during time.Duration) ([]time.Duration, error) {
				a, err := c.tell(order{Op: "ask", During: during})
				return a.Took, err
			})
		}
		return all, end, nil
	}}
}

// shared is a way of which all clients use one connection.
func shared(w way) way {
	return way{w.name + ", one connection", func(clients int) ([]client, func(), error) {
		all, end, err := w.open(1)
		if err != nil {
			return nil, nil, err
		}
		return slices.Repeat(all, clients), end, nil
	}}
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// local compares two processes on one machine. NATS has no unix sockets: it uses loopback TCP.
func (b *bench) local() error {
	peers, err := b.peers("unix")
	if err != nil {
		return err
	}
	_, socket, _, err := b.startNode("a")
	if err != nil {
		return err
	}
	server, err := b.start()
	if err == nil {
		_, err = server.tell(order{Op: "serve", Socket: socket, Name: "echo"})
	}
	if err != nil {
		return err
	}
	payload := make([]byte, payloadSize)
	ways := append(together(peers), dvsWay(socket, "echo", payload), dvsSharedWay(socket, "echo", payload))
	return b.compare("Request and reply of 64 bytes between two processes on one machine (unix sockets; NATS: loopback TCP)", ways, isOurs, isPeer)
}

// pair starts two nodes that are linked over loopback TCP, and returns their processes and sockets.
func (b *bench) pair(how string) (nodes [2]*child, sockets [2]string, err error) {
	var addr string
	for i, name := range []string{"a", "b"} {
		if nodes[i], sockets[i], addr, err = b.startNode(name); err != nil {
			return nodes, sockets, err
		}
	}
	if _, err = nodes[1].tell(order{Op: "link", Peer: "a", Verb: how}); err == nil {
		_, err = nodes[0].tell(order{Op: "link", Peer: "b", Addr: addr, Verb: how})
	}
	return nodes, sockets, err
}

// nodes compares two nodes over loopback TCP with the others straight over loopback TCP.
func (b *bench) nodes() error {
	peers, err := b.peers("tcp")
	if err != nil {
		return err
	}
	_, sockets, err := b.pair("")
	if err != nil {
		return err
	}
	server, err := b.start()
	if err == nil {
		_, err = server.tell(order{Op: "serve", Socket: sockets[1], Name: "echo"})
	}
	if err != nil {
		return err
	}
	payload := make([]byte, payloadSize)
	ways := append(together(peers), dvsWay(sockets[0], "echo", payload), dvsSharedWay(sockets[0], "echo", payload))
	if err := b.compare("Request and reply of 64 bytes between two nodes, over loopback TCP", ways, isOurs, isPeer); err != nil {
		return err
	}
	ways = nil
	for _, o := range append(peers, order{Name: "DVS", Socket: sockets[0]}) {
		ways = append(ways, b.apart(o))
	}
	all := b.clients
	defer func() { b.clients = all }()
	b.clients = slices.DeleteFunc(slices.Clone(all), func(n int) bool { return n == 1 })
	return b.compare("The same, each client a program of its own", ways, isOurs, isPeer)
}

// links shows what batching and compression do, with a payload of text.
func (b *bench) links() error {
	payload := bytes.Repeat([]byte("the state of the art; "), 24)
	rows := [][]string{{"link", "calls/s at 64 clients", "median", "bytes a call on the link"}}
	for _, how := range []string{"neither", "batching", "compression", "both", adaptive} {
		err := b.section(func() error {
			nodes, sockets, err := b.pair(how)
			if err != nil {
				return err
			}
			server, err := b.start()
			if err == nil {
				_, err = server.tell(order{Op: "serve", Socket: sockets[1], Name: "echo"})
			}
			if err != nil {
				return err
			}
			var all []figures
			var wrote uint64
			var calls float64
			for range b.rounds {
				f, err := dvsSharedWay(sockets[0], "echo", payload).run(64, b.during, b.spent)
				if err != nil {
					return err
				}
				all = append(all, f)
				calls += f.rate * b.during.Seconds()
			}
			for _, n := range nodes {
				a, err := n.tell(order{Op: "wrote"})
				if err != nil {
					return err
				}
				wrote += a.Bytes
			}
			m := median(all)
			rows = append(rows, []string{how, fmt.Sprintf("%.0f", m.rate), micros(m.p50), fmt.Sprintf("%.0f", float64(wrote)/calls)})
			return nil
		})
		if err != nil {
			return err
		}
	}
	b.table(fmt.Sprintf("Batching and compression on the link, without streams: %d bytes of text there and back, over loopback", len(payload)), rows)
	return nil
}

// many binds 10,000 names on one node.
func (b *bench) many() error {
	n, socket, _, err := b.startNode("a")
	if err != nil {
		return err
	}
	const names = 10_000
	programs, err := b.start()
	if err != nil {
		return err
	}
	before := [2]uint64{}
	after := [2]uint64{}
	processes := [2]*child{n, programs}
	for i, c := range processes {
		if before[i], err = c.memory(); err != nil {
			return err
		}
	}
	began := time.Now()
	if _, err := programs.tell(order{Op: "many", Socket: socket, Name: "echo", Count: names}); err != nil {
		return err
	}
	bound := time.Since(began)
	for i, c := range processes {
		if after[i], err = c.memory(); err != nil {
			return err
		}
	}
	f, err := dvsWay(socket, "echo-0", make([]byte, payloadSize)).run(1, b.during, b.spent)
	if err != nil {
		return err
	}
	each := func(i int) string { return fmt.Sprintf("%.1f KiB", float64(after[i]-before[i])/names/1024) }
	b.table(fmt.Sprintf("%d endpoints of one program on one node", names), [][]string{
		{"to bind them all", "memory of the node, each", "of the program, each", "median of a call to one", "99 %"},
		{bound.Round(time.Millisecond).String(), each(0), each(1), micros(f.p50), micros(f.p99)},
	})
	return nil
}
