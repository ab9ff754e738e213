package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/godwit-project/godwit/api"
	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

// verdict is what the guest says of its writes.
type verdict struct {
	Acknowledged uint64 `json:"acknowledged"`
	Checked      uint64 `json:"checked"`
	Lost         uint64 `json:"lost"`
	FirstLost    string `json:"first_lost"`
	IOErrors     uint64 `json:"io_errors"`
	Error        string `json:"error"`
}

// measure moves the service while the probe asks, and checks everything afterwards.
func (p *planned) measure(ctx context.Context) (*Report, error) {
	p.Say("a client connects, and asks every millisecond")
	stopProbe, err := p.startProbe(ctx)
	if err != nil {
		return nil, err
	}
	report, err := p.migrate(ctx)
	if err != nil {
		stopProbe()
		return nil, err
	}
	report.addProbe(stopProbe())
	if !report.completed() {
		return report, fmt.Errorf("the migration was aborted: %s", report.Reason)
	}
	p.Say("asking the guest to read back every acknowledged write")
	if err := p.verify(ctx, report); err != nil {
		report.fault("the writes could not be verified: %v", err)
	}
	objects, err := p.client.Get(ctx, "volume", "")
	if err != nil {
		return report, err
	}
	report.checkVolumes(objects)
	return report, report.err()
}

// migrate is the part that the probe watches.
func (p *planned) migrate(ctx context.Context) (*Report, error) {
	if err := sleep(ctx, probeLead); err != nil {
		return nil, err
	}
	before, err := p.lab.Path(ctx, "client", address)
	if err != nil {
		return nil, fmt.Errorf("find the path before the migration: %w", err)
	}
	p.Say("the client's packets go " + strings.Join(before, " → "))
	p.Say(fmt.Sprintf("moving the service from %s to %s", source, target))
	m, err := p.client.Migrate(ctx, &godwitv1.MigrateRequest{Service: service, ToSite: target})
	if err != nil {
		return nil, err
	}
	paths := follow(ctx, func(ctx context.Context) ([][]string, error) { return p.lab.Paths(ctx, "client", address, traceEvery) })
	last, err := p.client.FollowMigration(ctx, m.GetName(), api.Follow{
		Patience: patience,
		Seen: func(m *godwitv1.Migration) error {
			if p.Seen != nil {
				p.Seen(m)
			}
			return nil
		},
		Lost: func(err error) { p.Say(fmt.Sprintf("the controller is away (%v), waiting for it", err)) },
	})
	taken, terr := paths.stop()
	if err := errors.Join(err, terr); err != nil {
		return nil, fmt.Errorf("watch the migration: %w", err)
	}
	report := newReport(last)
	report.PathBefore = nodes(before)
	report.PathDuring = detour(taken)
	if report.completed() {
		p.Say(fmt.Sprintf("the service runs at %s; the client goes on asking for %v", target, probeTail))
	}
	if err := sleep(ctx, probeTail); err != nil {
		return nil, err
	}
	after, err := p.lab.Path(ctx, "client", address)
	if err != nil {
		report.fault("the path after the migration cannot be found: %v", err)
	}
	report.PathAfter = nodes(after)
	return report, nil
}

// verify asks the guest what became of its writes.
func (p *planned) verify(ctx context.Context, report *Report) error {
	answer, err := p.ask(ctx, controlPort, "verify", time.Minute)
	if err != nil {
		return err
	}
	var found verdict
	if err := json.Unmarshal(answer, &found); err != nil {
		return fmt.Errorf("read the guest's answer %q: %w", answer, err)
	}
	if found.Error != "" {
		return errors.New(found.Error)
	}
	report.addVerdict(found)
	return nil
}

func sleep(ctx context.Context, length time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(length):
		return nil
	}
}
