package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"
)

// mirror is QEMU's storage daemon, which serves a file and mirrors what is written, as the write is made, to another over the same
// kind of line as the group's.
type mirror struct {
	socket, file string
	farFile      string
	line         *process
	stops        []func()
}

func startMirror(ctx context.Context, bed *groupBed) (m *mirror, err error) {
	in := func(name string) string { return filepath.Join(bed.dir, "mirror-"+name) }
	m = &mirror{socket: in("nbd.sock"), file: in("near.raw"), farFile: filepath.Join(bed.farDir, "mirror.raw")}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.stop())
		}
	}()
	if err := fillFile(m.file, groupSize); err != nil {
		return m, err
	}
	if err := os.WriteFile(m.farFile, nil, 0o600); err != nil {
		return m, err
	}
	if err := os.Truncate(m.farFile, groupSize); err != nil {
		return m, err
	}
	far, link, control := in("far.sock"), in("link.sock"), in("qmp.sock")
	stop, err := startDiskServer(ctx, []string{"qemu-nbd", "-k", far, "-f", "raw", "--cache=writeback", "-t", "-e", "8", m.farFile}, far)
	if err != nil {
		return m, err
	}
	m.stops = append(m.stops, stop)
	if m.line, err = startEnd(groupEnd{Link: link, To: far, RTT: groupRTT}); err != nil {
		return m, err
	}
	stop, err = startDiskServer(ctx, []string{
		"qemu-storage-daemon", "--blockdev", "driver=file,node-name=file,filename=" + m.file, "--blockdev", "driver=raw,node-name=disk,file=file",
		"--blockdev", "driver=nbd,node-name=far,server.type=unix,server.path=" + link, "--nbd-server", "addr.type=unix,addr.path=" + m.socket,
		"--export", "type=nbd,id=export,node-name=disk,name=,writable=on",
		"--chardev", "socket,id=control,server=on,wait=off,path=" + control, "--monitor", "chardev=control",
	}, m.socket)
	if err != nil {
		return m, err
	}
	m.stops = append(m.stops, stop)
	return m, mirrorUntilReady(ctx, control, "write-blocking")
}

// mirrorUntilReady has the storage daemon mirror its node disk to its node far, and returns when both are equal.
func mirrorUntilReady(ctx context.Context, control, copyMode string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	q, err := openQMP(ctx, control)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, q.close()) }()
	mark := q.mark()
	if err := q.call(ctx, "blockdev-mirror", map[string]any{
		"job-id": "mirror", "device": "disk", "target": "far", "sync": "full", "copy-mode": copyMode,
	}, nil); err != nil {
		return err
	}
	return q.awaitJob(ctx, mark, "BLOCK_JOB_READY", "mirror")
}

func (m *mirror) stop() error {
	for i := len(m.stops) - 1; i >= 0; i-- {
		m.stops[i]()
	}
	if m.line == nil {
		return nil
	}
	return m.line.stop()
}
