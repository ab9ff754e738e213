package native

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// shepherd is process 1 of a place: it starts the program and criu, and buries whoever dies.
type shepherd struct {
	dir     string
	output  uint64 // inode of the pipe to which the program writes
	answers *json.Encoder

	mu       sync.Mutex
	children map[int]chan syscall.WaitStatus
	program  int
}

// Shepherd carries out what its Place says, as process 1 of it, until the program ends or the Place is closed. All of the place ends with it.
func Shepherd() error {
	if os.Getpid() != 1 {
		return errors.New("a shepherd is started by a node of the DVS, in a namespace of its own")
	}
	// What the node has inherited from who started it is not for the program.
	if err := unix.CloseRange(answersFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("keep descriptors from the program: %w", err)
	}
	s := &shepherd{answers: json.NewEncoder(os.NewFile(answersFD, "answers")), children: map[int]chan syscall.WaitStatus{}}
	died := make(chan os.Signal, 1)
	signal.Notify(died, syscall.SIGCHLD)
	ended := make(chan struct{})
	go s.bury(died, ended) // until this process ends
	orders := make(chan order)
	go func() {
		defer close(orders)
		for lines := json.NewDecoder(bufio.NewReader(os.NewFile(ordersFD, "orders"))); ; {
			var o order
			if lines.Decode(&o) != nil {
				return
			}
			orders <- o
		}
	}()
	for {
		select {
		case <-ended:
			return nil
		case o, more := <-orders:
			if !more {
				return nil
			}
			a, err := s.carryOut(o)
			if err != nil {
				a.Err = err.Error()
			}
			s.say(a)
		}
	}
}

func (s *shepherd) say(a answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.answers.Encode(a) // who does not listen has gone, and the orders end too
}

func (s *shepherd) carryOut(o order) (a answer, err error) {
	switch o.Verb {
	case setUp:
		return a, s.setUp(o)
	case start:
		return s.start(o)
	case dump:
		return a, s.dump(o)
	case restore:
		return s.restore(o)
	case letGo:
		return a, everybody(syscall.SIGCONT)
	default:
		return a, fmt.Errorf("%q is no order", o.Verb)
	}
}

// everybody sends a signal to all of the place but process 1.
func everybody(sig syscall.Signal) error {
	if err := syscall.Kill(-1, sig); err != nil {
		return fmt.Errorf("%v to all processes: %w", sig, err)
	}
	return nil
}

// setUp makes the place what the program will see: its own processes, its file, the links.
func (s *shepherd) setUp(o order) error {
	s.dir = o.Dir
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts to this place: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("godwit", o.Dir, "tmpfs", unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount %s: %w", o.Dir, err)
	}
	for name, to := range o.Links {
		if err := os.Symlink(to, filepath.Join(o.Dir, name)); err != nil {
			return err
		}
	}
	var err error
	if s.output, err = inodeOf(outputFD); err != nil {
		return err
	}
	return s.copyProgram()
}

func (s *shepherd) copyProgram() error {
	from := os.NewFile(programFD, "program")
	to, err := os.OpenFile(filepath.Join(s.dir, programFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close(), from.Close())
}

func inodeOf(fd int) (uint64, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return st.Ino, err
}

func (s *shepherd) start(o order) (answer, error) {
	if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(firstPID-1)), 0); err != nil {
		return answer{}, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return answer{}, err
	}
	defer null.Close()
	path := filepath.Join(s.dir, programFile)
	pid, _, err := s.fork(path, append([]string{path}, o.Arguments...), &syscall.ProcAttr{
		Dir: "/", Env: o.Env, Files: []uintptr{null.Fd(), outputFD, outputFD}, Sys: &syscall.SysProcAttr{Setsid: true},
	}, true)
	return answer{PID: pid}, err
}

// fork starts a child; what becomes of it comes by the channel. program: it is the one for which all of this is.
func (s *shepherd) fork(path string, words []string, how *syscall.ProcAttr, program bool) (int, <-chan syscall.WaitStatus, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, err := syscall.ForkExec(path, words, how)
	if err != nil {
		return 0, nil, fmt.Errorf("start %s: %w", path, err)
	}
	ch := make(chan syscall.WaitStatus, 1)
	s.children[pid] = ch
	if program {
		s.program = pid
	}
	return pid, ch, nil
}

// bury takes away children that have died, also those that others have left, and ends when the program has.
func (s *shepherd) bury(died <-chan os.Signal, ended chan<- struct{}) {
	for range died {
		for {
			var status syscall.WaitStatus
			s.mu.Lock()
			pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
			ch, last := s.children[pid], pid == s.program
			delete(s.children, pid)
			s.mu.Unlock()
			if pid <= 0 || err != nil {
				break
			}
			if ch != nil {
				ch <- status
			}
			if last {
				s.say(answer{Ended: describe(status)})
				close(ended)
				return
			}
		}
	}
}

func describe(status syscall.WaitStatus) string {
	if status.Signaled() {
		return "killed by " + status.Signal().String()
	}
	return "exit status " + strconv.Itoa(status.ExitStatus())
}

// criu runs it, and says from its log why it failed.
func (s *shepherd) criu(path, what string, words []string, files []uintptr, log string) error {
	_, ch, err := s.fork(path, append([]string{path}, words...), &syscall.ProcAttr{Dir: "/", Env: os.Environ(), Files: files}, false)
	if err != nil {
		return err
	}
	if status := <-ch; status.ExitStatus() != 0 {
		said, _ := os.ReadFile(log)
		return failure(what, errors.New(describe(status)), said)
	}
	return nil
}

func (s *shepherd) dump(o order) error {
	s.mu.Lock()
	pid := s.program
	s.mu.Unlock()
	sockets, err := outwardSockets()
	if err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	files := []uintptr{null.Fd(), null.Fd(), null.Fd()}
	if err := s.criu(o.CRIU, "dump", dumpArguments(pid, o.Dir, sockets), files, filepath.Join(o.Dir, dumpLog)); err != nil {
		return err
	}
	return writeManifest(o.Dir, manifest{PID: pid, Sockets: sockets, Output: s.output})
}

func (s *shepherd) restore(o order) (answer, error) {
	m, err := readManifest(o.Dir)
	if err != nil {
		return answer{}, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return answer{}, err
	}
	defer null.Close()
	files := []uintptr{null.Fd(), null.Fd(), null.Fd(), outputFD}
	names := []inherited{{fd: 3, name: fmt.Sprintf("pipe:[%d]", m.Output)}}
	for _, inode := range m.Sockets {
		f, err := brokenSocket()
		if err != nil {
			return answer{}, err
		}
		defer f.Close()
		names = append(names, inherited{fd: len(files), name: fmt.Sprintf("socket:[%d]", inode)})
		files = append(files, f.Fd())
	}
	pidfile := filepath.Join(s.dir, "restored.pid")
	if err := s.criu(o.CRIU, "restore", restoreArguments(o.Dir, pidfile, names), files, filepath.Join(o.Dir, restoreLog)); err != nil {
		return answer{}, err
	}
	b, err := os.ReadFile(pidfile)
	if err != nil {
		return answer{}, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid != m.PID {
		return answer{}, fmt.Errorf("process %d was restored, and %d is in the image: %w", pid, m.PID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.program = pid // and it lives, for it is stopped
	return answer{PID: pid}, os.Remove(pidfile)
}

// brokenSocket returns one whose other end has gone: whoever reads it comes to the end.
func brokenSocket() (*os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(pair[0]), "broken"), unix.Close(pair[1])
}
