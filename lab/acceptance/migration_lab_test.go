//go:build lab

package acceptance

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// migrationView is what these tests read of a migration.
type migrationView struct {
	Name, Service, Source, Destination, Phase, Reason string
	Ready                                             bool
	Epoch                                             uint64
	Started                                           time.Time
	BlackoutMs, TotalMs                               float64
	DiskBytes                                         int64
	Phases                                            []phaseView
	Notes                                             []string
}

type phaseView struct {
	Phase             string
	StartMs, LengthMs float64
}

func (m migrationView) ended() bool { return m.Phase == "completed" || m.Phase == "aborted" }

// at says in which phase the migration was at a moment.
func (m migrationView) at(moment time.Time) string {
	phase := ""
	for _, p := range m.Phases {
		if start := m.Started.Add(time.Duration(p.StartMs * float64(time.Millisecond))); start.After(moment) {
			break
		}
		phase = p.Phase
	}
	return phase
}

// story is a migration in a line.
func (m migrationView) story() string {
	var phases []string
	for _, p := range m.Phases {
		phases = append(phases, fmt.Sprintf("%s %.0f ms", p.Phase, p.LengthMs))
	}
	return fmt.Sprintf("%s %s in %.1f s (%s), blackout %.0f ms, reason %q, notes %q",
		m.Name, m.Phase, m.TotalMs/1000, strings.Join(phases, ", "), m.BlackoutMs, m.Reason, m.Notes)
}

// migration reads one, or the latest.
func (w *world) migration(t *testing.T, name string) migrationView {
	t.Helper()
	if name != "" {
		return get[migrationView](t, w, "migration", name)
	}
	all := get[listOf[migrationView]](t, w, "migrations").Items
	if len(all) == 0 {
		t.Fatal("there is no migration")
	}
	return slices.MaxFunc(all, func(a, b migrationView) int { return int(a.Epoch) - int(b.Epoch) })
}

// site says where the service runs by the controller's word.
func (w *world) site(t *testing.T) string {
	t.Helper()
	return get[struct{ Status struct{ Site, Phase string } }](t, w, "service", service).Status.Site
}

func otherSite(site string) string {
	if site == "west" {
		return "east"
	}
	return "west"
}

// ownedOnce wants exactly one primary volume and exactly one virtual server, both at the site that owns the service.
func (w *world) ownedOnce(t *testing.T) {
	t.Helper()
	const moment = 15 * time.Second
	eventually(t, moment, func() string {
		site := w.site(t)
		type volume struct{ Name, Site, Role string }
		volumes := get[listOf[volume]](t, w, "volumes").Items
		if len(volumes) != 1 || volumes[0].Role != "primary" || volumes[0].Site != site {
			return fmt.Sprintf("the service is at %s, its volumes are %+v", site, volumes)
		}
		here, there := w.machines(t, site+"-host"), w.machines(t, otherSite(site)+"-host")
		if len(here) != 1 || len(there) != 0 {
			return fmt.Sprintf("the service is at %s, with %d virtual servers there and %d at the other site", site, len(here), len(there))
		}
		return ""
	})
}
