package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const childCommand = "child"

func main() {
	if len(os.Args) == 2 && os.Args[1] == childCommand {
		obey(os.Stdin, os.Stdout)
		return
	}
	quick := flag.Bool("quick", false, "shorter, once, and without the 1 GiB of state: for a look")
	only := flag.String("only", "", "measure this section only: local, nodes, copy, link, outage, many")
	match := flag.String("match", "", "measure only the ways whose name this regular expression matches")
	clients := flag.Int("clients", 0, "compare requests with that many clients only")
	size := flag.Int("size", 0, "move states of that many bytes only")
	doc := flag.String("doc", "", "the document whose tables are replaced, if everything is measured; empty for none")
	flag.Parse()
	b := &bench{rounds: 3, during: time.Second, sizes: []int{64 << 10, 2_500_000, 64 << 20, 1 << 30}, out: os.Stdout, clients: []int{1, 8, 64}}
	var tables bytes.Buffer
	if *doc != "" && *only == "" {
		b.out = io.MultiWriter(os.Stdout, &tables)
	}
	if *quick {
		b.rounds, b.during = 1, 300*time.Millisecond
		b.sizes = b.sizes[:3]
	}
	if *size > 0 {
		b.sizes = []int{*size}
	}
	if *clients > 0 {
		b.clients = []int{*clients}
	}
	var err error
	if b.match, err = regexp.Compile(*match); err == nil {
		b.conditions()
		err = b.all(*only)
	}
	if err == nil && tables.Len() > 0 {
		err = tablesAt().Replace(*doc, tables.String())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	rounds   int
	during   time.Duration
	sizes    []int // of moving states
	clients  []int
	match    *regexp.Regexp
	out      io.Writer
	dir      string
	children []*child
}

func (b *bench) all(only string) error {
	sections := []struct {
		name string
		do   func() error
	}{{"local", b.local}, {"nodes", b.nodes}, {"copy", b.copies}, {"link", b.links}, {"outage", b.outages}, {"many", b.many}}
	for _, s := range sections {
		if only != "" && only != s.name {
			continue
		}
		if err := b.section(s.do); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// section measures with processes and sockets of its own.
func (b *bench) section(do func() error) error {
	dir, err := os.MkdirTemp("", "godwit-peers-")
	if err != nil {
		return err
	}
	b.dir = dir
	defer func() {
		for _, c := range b.children {
			c.stop()
		}
		b.children = nil
		_ = os.RemoveAll(dir)
	}()
	return do()
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

func (b *bench) start() (*child, error) {
	c, err := start()
	if err == nil {
		b.children = append(b.children, c)
	}
	return c, err
}

// startNode starts a node and returns its socket and the address of its links.
func (b *bench) startNode(name string) (c *child, socket, addr string, err error) {
	if c, err = b.start(); err != nil {
		return nil, "", "", err
	}
	socket = b.path(name)
	a, err := c.tell(order{Op: "node", Name: name, Socket: socket})
	return c, socket, a.Text, err
}

// spent returns the processor time that this process and its children have taken.
func (b *bench) spent() (all time.Duration) {
	own := os.Getpid()
	for _, c := range append([]*child{{pid: own}}, b.children...) {
		all += c.spent()
	}
	return all
}

// table prints rows, the first of them the head.
func (b *bench) table(title string, rows [][]string) {
	fmt.Fprintf(b.out, "**%s**\n\n", title)
	for i, row := range rows {
		fmt.Fprintf(b.out, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			fmt.Fprintln(b.out, "|"+strings.Repeat("---|", len(row)))
		}
	}
	fmt.Fprintln(b.out)
}

func micros(d time.Duration) string { return fmt.Sprintf("%.1f µs", float64(d.Nanoseconds())/1e3) }
func millis(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Nanoseconds())/1e6) }
