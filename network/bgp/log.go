package bgp

import (
	"context"
	"log/slog"
)

// silent is above every level that is in use.
const silent = slog.LevelError + 100

// floor passes on only records of the level or above: GoBGP tells the story of every session at Info.
type floor struct {
	slog.Handler
	level *slog.LevelVar
}

func (f floor) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= f.level.Level() && f.Handler.Enabled(ctx, l)
}

func (f floor) WithAttrs(attrs []slog.Attr) slog.Handler {
	return floor{f.Handler.WithAttrs(attrs), f.level}
}

func (f floor) WithGroup(name string) slog.Handler { return floor{f.Handler.WithGroup(name), f.level} }
