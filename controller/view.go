package controller

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/migration"
)

// viewMigration makes of a record what users see. now closes the phase that is under way.
func viewMigration(rec migrationRecord, progress map[migration.StepID]*pb.TaskProgress, now time.Time) (*pb.Migration, error) {
	st := rec.State
	v := &pb.Migration{
		Name: st.Spec.Name, Service: st.Spec.Service, Source: st.Spec.Source, Destination: st.Spec.Destination,
		SourceHost: rec.Source.Host, DestinationHost: rec.Destination.Host, Epoch: st.Spec.Epoch,
		Phase: string(st.Phase), Ready: st.Ready, Hold: st.Holding(), Reason: st.Reason, Notes: append(slices.Clone(rec.Notes), st.Trouble()...),
		Lanes: lanes(st, progress),
	}
	if !st.Spec.HoldUntil.IsZero() {
		v.HoldUntil = timestamppb.New(st.Spec.HoldUntil)
	}
	for i, p := range st.PhaseTimes {
		end := now
		if i+1 < len(st.PhaseTimes) {
			end = st.PhaseTimes[i+1].Entered
		} else if st.Terminal() {
			end = p.Entered
		}
		v.Phases = append(v.Phases, &pb.PhaseTime{Phase: string(p.Phase), Entered: timestamppb.New(p.Entered), LengthMs: milliseconds(end.Sub(p.Entered))})
	}
	if len(st.PhaseTimes) > 0 {
		v.Started = timestamppb.New(st.PhaseTimes[0].Entered)
	}
	if !rec.Ended.IsZero() {
		v.Ended = timestamppb.New(rec.Ended)
	}
	f, err := figuresOf(rec, now)
	if err != nil {
		return nil, err
	}
	v.Figures = f
	return v, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// figuresOf adds up what the agents measured.
func figuresOf(rec migrationRecord, now time.Time) (*pb.Figures, error) {
	steps := make(map[migration.StepID]*pb.StepFigures, len(rec.Figures))
	f := new(pb.Figures)
	for id, raw := range rec.Figures {
		s := new(pb.StepFigures)
		if err := protojson.Unmarshal(raw, s); err != nil {
			return nil, fmt.Errorf("read figures of step %s: %w", id, err)
		}
		steps[migration.StepID(id)] = s
		f.MemoryBytes = max(f.MemoryBytes, s.GetMemoryBytes())
		f.DiskBytes = max(f.DiskBytes, s.GetDiskBytes())
		f.WanBytes = max(f.WanBytes, s.GetWanBytes())
		f.HeldPackets = max(f.HeldPackets, s.GetHeldPackets())
		f.DroppedPackets = max(f.DroppedPackets, s.GetDroppedPackets())
		f.TunnelPackets = max(f.TunnelPackets, s.GetTunnelPackets())
	}
	st := rec.State
	if len(st.PhaseTimes) > 0 {
		end := now
		if st.Terminal() {
			end = st.PhaseTimes[len(st.PhaseTimes)-1].Entered
		}
		f.TotalMs = milliseconds(end.Sub(st.PhaseTimes[0].Entered))
	}
	stopped, resumed := steps["server/source/quiesce"].GetStoppedAt(), steps["server/destination/commit"].GetResumedAt()
	if stopped != nil && resumed != nil {
		clock := steps["server/source/prepare"]
		f.BlackoutMs = milliseconds(resumed.AsTime().Sub(stopped.AsTime()) - time.Duration(clock.GetClockOffsetNs()))
		f.BlackoutUncertaintyMs = milliseconds(time.Duration(clock.GetClockUncertaintyNs()))
	}
	begin, end := st.Steps["storage/source/synchronize"], st.Steps["storage/source/quiesce"]
	if !begin.Started.IsZero() && !end.Done.IsZero() {
		f.SyncWindowMs = milliseconds(end.Done.Sub(begin.Started))
	}
	return f, nil
}

// laneOrder is the order in which the live view shows the subsystems.
var laneOrder = []migration.Participant{migration.Server, migration.Network, migration.Storage}

// lanes shows, for each subsystem, the step that it is at.
func lanes(st migration.State, progress map[migration.StepID]*pb.TaskProgress) []*pb.Lane {
	out := make([]*pb.Lane, 0, len(laneOrder))
	for _, p := range laneOrder {
		lane := &pb.Lane{Participant: string(p), State: "waiting"}
		for _, planned := range st.Spec.Plan.Steps {
			status, started := st.Steps[planned.ID]
			if planned.ID.Participant() != p || !started || status.Skipped {
				continue
			}
			if current := laneState(status); lane.State != "running" && lane.State != "failed" || current != "done" {
				lane.Role, lane.Verb, lane.State, lane.Message = string(planned.ID.Role()), string(planned.ID.Verb()), current, status.Failure
				report(lane, progress[planned.ID])
			}
		}
		out = append(out, lane)
	}
	return out
}

func laneState(s migration.StepStatus) string {
	switch {
	case !s.Done.IsZero():
		return "done"
	case s.Failure != "":
		return "failed"
	}
	return "running"
}

// report fills in how far a step is, and when it will be through at the rate of the moment.
func report(lane *pb.Lane, p *pb.TaskProgress) {
	lane.Done, lane.Total, lane.Rate, lane.EtaMs = p.GetDone(), p.GetTotal(), p.GetRate(), 0
	if lane.Message == "" {
		lane.Message = p.GetMessage()
	}
	if left := p.GetTotal() - p.GetDone(); left > 0 && p.GetRate() > 0 && lane.GetState() == "running" {
		lane.EtaMs = float64(left) / p.GetRate() * 1000
	}
}
