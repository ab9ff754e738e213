// Command godwit moves running services between data centers. It is every part of Godwit in one binary: the commands of
// users and operators, which call the API and print; the controller; the agent; and the lab.
//
// One file holds one command: its flags, its help, its run. Nothing is decided here that another client of the API would
// have to decide again; that belongs to package api or behind it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, env: os.Getenv, now: time.Now}
	code := a.run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}
