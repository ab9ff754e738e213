package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// dirOf is where the lab of that name is found: a folder, or a link to Config.Dir.
func dirOf(name string) string { return filepath.Join(root, "lab-"+name) }

func configPath(dir string) string { return filepath.Join(dir, "config.json") }

// LoadConfig reads the configuration that Up wrote for the supervisor.
func LoadConfig(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read the lab's configuration: %w", err)
	}
	var cfg Config
	if err := json.Unmarshal(data, &cfg); err != nil {
		return Config{}, fmt.Errorf("read the lab's configuration %s: %w", path, err)
	}
	return cfg.withDefaults()
}

// Up starts a lab: `<binary> lab supervise --config FILE` in the background. It returns when all agents have joined
// and the BGP sessions stand, and tells each step to progress (which may be nil). After an error or the end of ctx
// nothing is left of the lab but what the error says.
func Up(ctx context.Context, cfg Config, progress func(string)) (*Lab, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, ErrNotRoot
	}
	if progress == nil {
		progress = func(string) {}
	}
	left, err := Leftovers(cfg.Name)
	if err != nil {
		return nil, err
	}
	if len(left) > 0 {
		return nil, fmt.Errorf("lab %s: %w (found %s)", cfg.Name, ErrUp, left[0])
	}
	if _, err := findBird(""); err != nil {
		return nil, err
	}
	l := &Lab{name: cfg.Name, dir: dirOf(cfg.Name), cfg: cfg}
	if err := claim(cfg); err != nil { // before this nothing is ours to take down
		return nil, err
	}
	err = l.launch(ctx, progress)
	if err == nil {
		return l, nil
	}
	err = errors.Join(fmt.Errorf("start lab %s: %w", cfg.Name, err), logTails(l.dir))
	cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	_, downErr := Down(cleanup, cfg.Name)
	return nil, errors.Join(err, downErr)
}

// claim makes the lab's folder; whoever makes it owns the name.
func claim(cfg Config) error {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return fmt.Errorf("make the lab's folder: %w", err)
	}
	dir := dirOf(cfg.Name)
	var err error
	if cfg.Dir == "" {
		err = os.Mkdir(dir, 0o755)
	} else {
		err = claimElsewhere(cfg.Dir, dir)
	}
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("lab %s: %w", cfg.Name, ErrUp)
	}
	if err != nil {
		return fmt.Errorf("make the lab's folder: %w", err)
	}
	data, err := json.MarshalIndent(cfg, "", "  ")
	if err != nil {
		return fmt.Errorf("write the lab's configuration: %w", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "logs"), 0o755); err != nil {
		return fmt.Errorf("make the lab's folder: %w", err)
	}
	if err := os.WriteFile(configPath(dir), data, 0o644); err != nil {
		return fmt.Errorf("write the lab's configuration: %w", err)
	}
	return nil
}

func claimElsewhere(folder, link string) error {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is not empty: Down would remove what is in it; choose another", folder)
	}
	return os.Symlink(folder, link)
}

// launch starts the supervisor and follows it until the lab is ready.
func (l *Lab) launch(ctx context.Context, progress func(string)) error {
	out, err := os.OpenFile(filepath.Join(l.dir, "logs", "supervisor.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open the supervisor's log: %w", err)
	}
	defer out.Close()
	if err := keepDescriptors(); err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	cmd := exec.Command(l.cfg.Binary, "lab", "supervise", "--config", configPath(l.dir))
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // lasts as long as the supervisor does, or this process
	if err := os.WriteFile(pidPath(l.dir), fmt.Appendln(nil, cmd.Process.Pid), 0o644); err != nil {
		return fmt.Errorf("note the supervisor's id: %w", err)
	}
	if err := waitSocket(ctx, controlSocket(l.dir), ended); err != nil {
		return err
	}
	return call(ctx, l.dir, request{Op: opWatch}, func(r response) {
		if r.Progress != "" {
			progress(r.Progress)
		}
	})
}

func pidPath(dir string) string { return filepath.Join(dir, "supervisor.pid") }

func waitSocket(ctx context.Context, path string, ended <-chan error) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		// The file is there before anybody listens behind it.
		if conn, err := net.Dial("unix", path); err == nil {
			return conn.Close()
		}
		select {
		case err := <-ended:
			return fmt.Errorf("the supervisor ended at once: %w", errors.Join(err, errors.New("see below")))
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// logTails gathers the last lines of every log into an error, because Down is about to remove them.
func logTails(dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, "logs", "*.log"))
	if err != nil {
		return err
	}
	var tails []error
	for _, path := range paths {
		data, err := os.ReadFile(path)
		lines := strings.Split(strings.TrimSpace(string(data)), "\n")
		if err != nil || lines[0] == "" {
			continue
		}
		lines = lines[max(0, len(lines)-5):]
		tails = append(tails, fmt.Errorf("%s:\n  %s", filepath.Base(path), strings.Join(lines, "\n  ")))
	}
	return errors.Join(tails...)
}

// Open attaches to a running lab.
func Open(name string) (*Lab, error) {
	if name == "" {
		name = DefaultName
	}
	if !namePattern.MatchString(name) {
		return nil, fmt.Errorf("open lab %q: that cannot be the name of a lab", name)
	}
	dir := dirOf(name)
	cfg, err := LoadConfig(configPath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("lab %s: %w", name, ErrNotUp)
	}
	if err != nil {
		return nil, err
	}
	if !alive(dir) {
		return nil, fmt.Errorf("lab %s: %w: its supervisor has died; clear up first with: godwit lab down", name, ErrNotUp)
	}
	return &Lab{name: name, dir: dir, cfg: cfg}, nil
}
