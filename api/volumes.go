package api

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
)

// RunVolumeTask does something with the volumes of a service and returns what was found. told, which may be nil, is called with the
// bytes done and to do while it lasts.
func (c *Client) RunVolumeTask(ctx context.Context, task *godwitv1.VolumeTask, told func(done, total int64)) (result *godwitv1.VolumeResult, err error) {
	op := "volumes of " + task.GetService()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.calls.RunVolumeTask(ctx, connect.NewRequest(&godwitv1.RunVolumeTaskRequest{Task: task}))
	if err != nil {
		return nil, c.explain(ctx, op, err)
	}
	defer func() {
		if closing := stream.Close(); err == nil && closing != nil && !errors.Is(closing, context.Canceled) {
			err = c.explain(ctx, op, closing)
		}
	}()
	for stream.Receive() {
		if m := stream.Msg(); m.GetResult() != nil {
			result = m.GetResult()
		} else if told != nil {
			told(m.GetDone(), m.GetTotal())
		}
	}
	switch err := stream.Err(); {
	case err != nil:
		return nil, c.explain(ctx, op, err)
	case result == nil:
		return nil, &Error{Op: op, Message: "the controller ended the connection without a result", Code: connect.CodeUnavailable, Hint: "try again in a moment"}
	}
	return result, nil
}

// VolumeFilesView is what `volume export --in-place` prints.
type VolumeFilesView struct {
	Kind    string           `json:"kind"`
	Service string           `json:"service"`
	Site    string           `json:"site"`
	Host    string           `json:"host"`
	Files   []VolumeFileView `json:"files"`
}

// VolumeFileView is the raw base of one volume.
type VolumeFileView struct {
	Volume string `json:"volume"`
	Path   string `json:"path"`
	Size   int64  `json:"size"`
}

// VolumeVerificationView is what `volume verify` prints.
type VolumeVerificationView struct {
	Kind     string `json:"kind"`
	Service  string `json:"service"`
	Compared int64  `json:"compared"`
	// Local says that the disk was compared with its checksums, for want of a replica; Unverified are bytes that have none.
	Local      bool  `json:"local"`
	Unverified int64 `json:"unverified"`
	// Differing counts the ranges that were not equal, of which Differences names the first.
	Differing   int64                  `json:"differing"`
	Differences []VolumeDifferenceView `json:"differences"`
}

// VolumeDifferenceView is a range that was not equal.
type VolumeDifferenceView struct {
	Volume string `json:"volume"`
	Offset int64  `json:"offset"`
	Length int64  `json:"length"`
}

// VolumeSnapshotView is a snapshot of all volumes of a service.
type VolumeSnapshotView struct {
	Kind    string `json:"kind"`
	Service string `json:"service"`
	Name    string `json:"name"`
	Site    string `json:"site"`
	Host    string `json:"host"`
	Point   uint64 `json:"point"`
	Time    string `json:"time,omitempty"`
	Until   string `json:"until,omitempty"`
}

// ViewVolumeFiles returns where the volumes of a service lie.
func ViewVolumeFiles(service string, r *godwitv1.VolumeResult) VolumeFilesView {
	out := VolumeFilesView{Kind: "VolumeFiles", Service: service, Site: r.GetSite(), Host: r.GetHost(), Files: []VolumeFileView{}}
	for _, f := range r.GetFiles() {
		out.Files = append(out.Files, VolumeFileView{Volume: f.GetVolume(), Path: f.GetPath(), Size: f.GetSize()})
	}
	return out
}

// VolumeExportView is what `volume export --to` prints.
type VolumeExportView struct {
	Kind    string `json:"kind"`
	Service string `json:"service"`
	Volume  string `json:"volume"`
	File    string `json:"file"`
	Format  string `json:"format"`
	Size    int64  `json:"size"`
	Site    string `json:"site"`
	Host    string `json:"host"`
	// Consistent says that it is one moment of the disk: that of the snapshot, or of the export.
	Consistent bool   `json:"consistent"`
	Snapshot   string `json:"snapshot"`
}

// ViewVolumeExport returns what was exported into which file.
func ViewVolumeExport(service, volume, file, format, snapshot string, r *godwitv1.VolumeResult) VolumeExportView {
	return VolumeExportView{
		Kind: "VolumeExport", Service: service, Volume: volume, File: file, Format: format, Size: r.GetSize(),
		Site: r.GetSite(), Host: r.GetHost(), Consistent: r.GetConsistent(), Snapshot: snapshot,
	}
}

// ViewVolumeVerification returns what a verification found.
func ViewVolumeVerification(service string, r *godwitv1.VolumeResult) VolumeVerificationView {
	out := VolumeVerificationView{
		Kind: "VolumeVerification", Service: service, Compared: r.GetCompared(), Local: r.GetLocal(), Unverified: r.GetUnverified(), Differing: r.GetDiffering(), Differences: []VolumeDifferenceView{},
	}
	for _, d := range r.GetDifferences() {
		out.Differences = append(out.Differences, VolumeDifferenceView{Volume: d.GetVolume(), Offset: d.GetOffset(), Length: d.GetLength()})
	}
	return out
}

// ViewVolumeSnapshots returns the snapshots of a service.
func ViewVolumeSnapshots(service string, r *godwitv1.VolumeResult) ListView {
	out := ListView{Kind: "List", Items: []any{}}
	for _, s := range r.GetSnapshots() {
		out.Items = append(out.Items, VolumeSnapshotView{
			Kind: "VolumeSnapshot", Service: service, Name: s.GetName(), Site: r.GetSite(), Host: r.GetHost(), Point: s.GetPoint(),
			Time: timeText(s.GetTime()), Until: timeText(s.GetUntil()),
		})
	}
	return out
}
