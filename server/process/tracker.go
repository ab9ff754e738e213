package process

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tracker asks the kernel which pages have been written: Linux 6.7 write-protects pages by itself and lifts that at the first write
// (userfaultfd, WP_ASYNC), and tells in one call which it has lifted (PAGEMAP_SCAN). Where it is not to be had, memory is
// compared as a whole: slower, and the same result.
type tracker struct {
	faults  int // a userfaultfd
	pagemap int
	trial   []pageRegion
}

// errTracker says that the kernel does not do what is needed.
var errTracker = errors.New("the kernel does not tell which pages were written")

// What the kernel's headers say.
const (
	uffdUserModeOnly  = 1
	uffdAPIVersion    = 0xaa
	uffdWPUnpopulated = 1 << 13
	uffdWPAsync       = 1 << 15
	uffdRegisterWP    = 2
	ioctlUffdAPI      = 0xc018aa3f
	ioctlUffdRegister = 0xc020aa00
	ioctlPagemapScan  = 0xc0606610
	scanWriteProtect  = 1 << 0
	scanCheckAsync    = 1 << 1
	pageIsWritten     = 1 << 1
	regionsAtOnce     = 256
)

type uffdAPI struct{ api, features, ioctls uint64 }

type uffdRegister struct{ start, length, mode, ioctls uint64 }

type pageRegion struct{ start, end, categories uint64 }

type scanArguments struct {
	size, flags, start, end, walkEnd, vector, vectorLength, maxPages, inverted, mask, anyOf, result uint64
}

// span is some pages, by their numbers: from the first to before the last.
type span struct{ from, to int }

// newTracker returns a tracker that has been tried.
func newTracker() (*tracker, error) {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK|uffdUserModeOnly, 0, 0)
	if errno != 0 {
		return nil, fmt.Errorf("%w: userfaultfd: %w", errTracker, errno)
	}
	t := &tracker{faults: int(fd), pagemap: -1, trial: make([]pageRegion, 4)}
	api := uffdAPI{api: uffdAPIVersion, features: uffdWPUnpopulated | uffdWPAsync}
	err := ioctl(t.faults, ioctlUffdAPI, unsafe.Pointer(&api))
	if err == nil {
		t.pagemap, err = unix.Open("/proc/self/pagemap", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	if err == nil {
		err = t.try()
	}
	if err != nil {
		t.close()
		return nil, fmt.Errorf("%w: %w", errTracker, err)
	}
	return t, nil
}

func (t *tracker) close() {
	_ = unix.Close(t.faults)
	if t.pagemap >= 0 {
		_ = unix.Close(t.pagemap)
	}
}

func ioctl(fd int, request uintptr, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}

// try finds out whether writes are told as they should be.
func (t *tracker) try() error {
	b, err := unix.Mmap(-1, 0, 4*PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	defer unix.Munmap(b)
	if err := t.watch(b); err != nil {
		return err
	}
	b[0] = 1
	if _, err := t.written(b, t.trial); err != nil {
		return err
	}
	b[2*PageSize] = 1
	all, err := t.written(b, t.trial)
	if err == nil && (len(all) != 1 || all[0] != span{2, 3}) {
		err = fmt.Errorf("page 2 was written, the kernel says %v", all)
	}
	return err
}

// watch has the kernel note writes to memory, until it is unmapped.
func (t *tracker) watch(memory []byte) error {
	r := uffdRegister{start: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(memory)))), length: uint64(len(memory)), mode: uffdRegisterWP}
	return ioctl(t.faults, ioctlUffdRegister, unsafe.Pointer(&r))
}

// written returns the pages that may have been written since the last call, in order; the first time all. The kernel writes to regions, which
// have to be on the heap.
func (t *tracker) written(memory []byte, regions []pageRegion) ([]span, error) {
	begin := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(memory))))
	a := scanArguments{
		flags: scanWriteProtect | scanCheckAsync, start: begin, end: begin + uint64(len(memory)),
		vector: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(regions)))), vectorLength: uint64(len(regions)), mask: pageIsWritten, result: pageIsWritten,
	}
	a.size = uint64(unsafe.Sizeof(a))
	var all []span
	for a.start < a.end {
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(t.pagemap), ioctlPagemapScan, uintptr(unsafe.Pointer(&a)))
		if errno != 0 {
			return nil, errno
		}
		for _, r := range regions[:n] {
			all = append(all, span{int((r.start - begin) / PageSize), int((r.end - begin) / PageSize)})
		}
		a.start = a.walkEnd
	}
	runtime.KeepAlive(regions)
	return all, nil
}
