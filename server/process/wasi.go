package process

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/tetratelabs/wazero"
)

// wasiName is the module that programs import WASI from.
const wasiName = "wasi_snapshot_preview1"

// Error numbers of WASI.
const (
	wasiOK     = 0
	wasiBadFD  = 8
	wasiFault  = 21
	wasiNoSys  = 52
	wasiNoSeek = 70
)

// wasiFunctions are WASI without files, network, arguments and environment. It is our own, and not the engine's, because the state behind it
// would have to be moved as well: this one has none but the clock. Standard output and error go to the log, standard input is
// empty.
func wasiFunctions() map[string]hostFunction {
	all := map[string]hostFunction{
		"args_get":            wasi("ii", func(*running, []uint64) uint64 { return wasiOK }),
		"args_sizes_get":      wasi("ii", wasiNone),
		"environ_get":         wasi("ii", func(*running, []uint64) uint64 { return wasiOK }),
		"environ_sizes_get":   wasi("ii", wasiNone),
		"clock_res_get":       wasi("ii", func(r *running, s []uint64) uint64 { r.put64(s[1], 1); return wasiOK }),
		"clock_time_get":      wasi("iIi", func(r *running, s []uint64) uint64 { r.put64(s[2], uint64(r.now())); return wasiOK }),
		"random_get":          wasi("ii", func(r *running, s []uint64) uint64 { r.fill(r.view(s[0], s[1])); return wasiOK }),
		"sched_yield":         wasi("", func(*running, []uint64) uint64 { return wasiOK }),
		"poll_oneoff":         wasi("iiii", wasiPoll),
		"fd_write":            wasi("iiii", wasiWrite),
		"fd_read":             wasi("iiii", func(r *running, s []uint64) uint64 { return ofStandard(r, s, 3) }),
		"fd_fdstat_get":       wasi("ii", wasiStat),
		"fd_fdstat_set_flags": wasi("ii", func(_ *running, s []uint64) uint64 { return standard(s[0], wasiOK) }),
		"fd_close":            wasi("i", func(_ *running, s []uint64) uint64 { return standard(s[0], wasiOK) }),
		"fd_seek":             wasi("iIii", func(_ *running, s []uint64) uint64 { return standard(s[0], wasiNoSeek) }),
		"fd_prestat_get":      wasi("ii", func(*running, []uint64) uint64 { return wasiBadFD }),
		"fd_prestat_dir_name": wasi("iii", func(*running, []uint64) uint64 { return wasiBadFD }),
		"proc_exit":           {signature{"i", ""}, func(_ *running, s []uint64) { panic(fmt.Errorf("it ended itself with code %d", uint32(s[0]))) }},
	}
	for name, params := range map[string]string{
		"fd_advise": "iIIi", "fd_allocate": "iII", "fd_datasync": "i", "fd_fdstat_set_rights": "iII", "fd_filestat_get": "ii",
		"fd_filestat_set_size": "iI", "fd_filestat_set_times": "iIIi", "fd_pread": "iiiIi", "fd_pwrite": "iiiIi", "fd_readdir": "iiiIi",
		"fd_renumber": "ii", "fd_sync": "i", "fd_tell": "ii", "path_create_directory": "iii", "path_filestat_get": "iiiii",
		"path_filestat_set_times": "iiiiIIi", "path_link": "iiiiiii", "path_open": "iiiiiIIii", "path_readlink": "iiiiii",
		"path_remove_directory": "iii", "path_rename": "iiiiii", "path_symlink": "iiiii", "path_unlink_file": "iii", "proc_raise": "i",
		"sock_accept": "iii", "sock_recv": "iiiiii", "sock_send": "iiiii", "sock_shutdown": "ii",
	} {
		all[name] = wasi(params, func(*running, []uint64) uint64 { return wasiNoSys })
	}
	return all
}

func exportWASI(ctx context.Context, runtime wazero.Runtime) error {
	return export(ctx, runtime, wasiName, wasiFunctions())
}

// wasi makes a function that returns an error number.
func wasi(params string, f func(r *running, stack []uint64) uint64) hostFunction {
	return hostFunction{signature{params, "i"}, func(r *running, stack []uint64) { stack[0] = f(r, stack) }}
}

func (r *running) put32(at uint64, n uint32) { binary.LittleEndian.PutUint32(r.view(at, 4), n) }

func (r *running) put64(at, n uint64) { binary.LittleEndian.PutUint64(r.view(at, 8), n) }

// wasiNone says that there are none, which need no room.
func wasiNone(r *running, stack []uint64) uint64 {
	r.put32(stack[0], 0)
	r.put32(stack[1], 0)
	return wasiOK
}

// standard returns n for standard input, output and error, which are all the files there are.
func standard(fd, n uint64) uint64 {
	if fd > 2 {
		return wasiBadFD
	}
	return n
}

// ofStandard reads nothing.
func ofStandard(r *running, stack []uint64, count int) uint64 {
	r.put32(stack[count], 0)
	return standard(stack[0], wasiOK)
}

// wasiStat describes a terminal.
func wasiStat(r *running, stack []uint64) uint64 {
	b := r.view(stack[1], 24)
	clear(b)
	b[0] = 2 // a character device
	binary.LittleEndian.PutUint64(b[8:], 1<<6|1<<1)
	return standard(stack[0], wasiOK)
}

// wasiWrite takes pieces for the log.
func wasiWrite(r *running, stack []uint64) uint64 {
	if stack[0] != 1 && stack[0] != 2 {
		return wasiBadFD
	}
	written := uint64(0)
	for i := range stack[2] {
		piece := r.view(stack[1]+8*i, 8)
		b := r.view(uint64(binary.LittleEndian.Uint32(piece)), uint64(binary.LittleEndian.Uint32(piece[4:])))
		r.log(b)
		written += uint64(len(b))
	}
	r.put32(stack[3], uint32(written))
	return wasiOK
}

// wasiPoll sleeps: of what could be waited for there are only clocks. It takes no time, the clock is moved on.
func wasiPoll(r *running, stack []uint64) uint64 {
	const subscription, event = 48, 32
	n := stack[2]
	if n == 0 {
		return wasiFault
	}
	first := int64(-1) // how long until the first clock rings
	for i := range n {
		in := r.view(stack[0]+subscription*i, subscription)
		if wait := r.waits(in); in[8] == 0 && (first < 0 || wait < first) {
			first = wait
		} else if in[8] != 0 {
			first = 0 // a file is ready at once, to tell that it cannot be waited for
		}
	}
	events := uint64(0)
	for i := range n {
		in := r.view(stack[0]+subscription*i, subscription)
		if in[8] == 0 && r.waits(in) > first {
			continue
		}
		out := r.view(stack[1]+event*events, event)
		clear(out)
		copy(out, in[:8])
		if out[10] = in[8]; in[8] != 0 {
			out[8] = wasiNoSys
		}
		events++
	}
	r.sleep(first)
	r.put32(stack[3], uint32(events))
	return wasiOK
}

// waits returns for how long a subscription to a clock waits from now on, in nanoseconds.
func (r *running) waits(in []byte) int64 {
	timeout := int64(min(binary.LittleEndian.Uint64(in[24:]), 1<<62))
	if in[40]&1 != 0 { // a moment, not a length
		return max(timeout-r.i.clock, 0)
	}
	return timeout
}
