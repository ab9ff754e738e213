package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxLog is how much of the end of each log is kept.
const maxLog = 1 << 20

// keepLogs copies the logs out of a lab that is about to go, so that what failed can be understood, and returns where they are.
// Nothing but logs: a lab's folder holds keys, too.
func keepLogs(labDir string) (string, error) {
	to, err := os.MkdirTemp("", "godwit-demo-logs-")
	if err != nil {
		return "", fmt.Errorf("keep the lab's logs: %w", err)
	}
	err = filepath.WalkDir(labDir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // the lab lives on while we look
		case err != nil:
			return err
		case !entry.Type().IsRegular() || !strings.HasSuffix(path, ".log"):
			return nil
		}
		name, err := filepath.Rel(labDir, path)
		if err != nil {
			return err
		}
		return copyEnd(filepath.Join(to, strings.ReplaceAll(name, string(filepath.Separator), "_")), path)
	})
	if err != nil {
		return to, fmt.Errorf("keep the lab's logs: %w", err)
	}
	return to, nil
}

// copyEnd copies the last maxLog bytes of a file.
func copyEnd(to, from string) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	if info, err := source.Stat(); err == nil && info.Size() > maxLog {
		if _, err := source.Seek(-maxLog, io.SeekEnd); err != nil {
			return err
		}
	}
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, io.LimitReader(source, maxLog))
	return errors.Join(err, target.Close())
}

// saveOnFailure keeps the logs when a run has failed by itself, and says where they are.
func (p *planned) saveOnFailure(ctx context.Context, failed error) error {
	if failed == nil || p.Keep || ctx.Err() != nil {
		return nil
	}
	where, err := keepLogs(p.lab.Dir())
	if where != "" {
		p.Say("the lab's logs are kept in " + where)
	}
	return err
}
