package probe

import (
	"bufio"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// Serve answers probes as a guest does, without a disk: a stand-in where there is no guest, to measure the way there.
// It returns when the listener is closed and all its connections have ended, which it ends itself.
func Serve(l net.Listener) error {
	var wg sync.WaitGroup
	var count atomic.Uint64
	var mu sync.Mutex
	open := make(map[net.Conn]bool)
	for {
		conn, err := l.Accept()
		if err != nil {
			mu.Lock()
			for c := range open {
				c.Close()
			}
			mu.Unlock()
			wg.Wait()
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		mu.Lock()
		open[conn] = true
		mu.Unlock()
		wg.Go(func() {
			answer(conn, &count)
			mu.Lock()
			delete(open, conn)
			mu.Unlock()
			conn.Close()
		})
	}
}

func answer(conn io.ReadWriter, count *atomic.Uint64) {
	var reply []byte
	for in := bufio.NewScanner(conn); in.Scan(); {
		n, err := strconv.ParseUint(strings.TrimSpace(in.Text()), 10, 64)
		if err != nil {
			return
		}
		reply = strconv.AppendUint(reply[:0], n, 10)
		reply = append(reply, ' ')
		reply = strconv.AppendUint(reply, count.Add(1), 10)
		reply = append(reply, " 0\n"...)
		if _, err := conn.Write(reply); err != nil {
			return
		}
	}
}
