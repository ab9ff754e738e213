package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/godwit-project/godwit/api"
	godwitv1 "github.com/godwit-project/godwit/api/godwit/v1"
	"github.com/godwit-project/godwit/api/godwit/v1/godwitv1connect"
)

// noon is when everything happens in these tests.
func noon() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func after(ms int) *timestamppb.Timestamp {
	return timestamppb.New(noon().Add(time.Duration(ms) * time.Millisecond))
}

// fake is a controller whose services behave as their names say: see script.
type fake struct {
	godwitv1connect.UnimplementedGodwitServiceHandler

	mu        sync.Mutex
	services  map[string]*godwitv1.Service
	blobs     map[string][]byte
	watches   map[string]int
	continued map[string]bool
	aborted   map[string]string
	volumes   map[string]*godwitv1.Volume
	wish      string // the name of the failover that was asked for
}

// serveFake starts one on a unix socket, until the test ends, and returns its address.
func serveFake(t *testing.T) string {
	t.Helper()
	f := &fake{
		services: map[string]*godwitv1.Service{}, blobs: map[string][]byte{}, watches: map[string]int{},
		continued: map[string]bool{}, aborted: map[string]string{}, volumes: map[string]*godwitv1.Volume{},
	}
	// The path of a socket is short by law, and t.TempDir's is not.
	dir, err := os.MkdirTemp("", "cli-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(godwitv1connect.NewGodwitServiceHandler(f))
	mux.HandleFunc(api.BlobPath, f.serveBlob)
	server := &http.Server{Handler: mux, Protocols: new(http.Protocols), ReadHeaderTimeout: time.Minute}
	server.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return "unix://" + socket
}

func (f *fake) serveBlob(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := strings.TrimPrefix(r.URL.Path, api.BlobPath)
	content, there := f.blobs[name]
	switch {
	case r.Method == http.MethodPut:
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if string(body) == "too much" {
			http.Error(w, "the disk is full\nhint: make room in /var/lib/godwit", http.StatusInsufficientStorage)
			return
		}
		f.blobs[name] = body
		w.WriteHeader(http.StatusCreated)
	case !there:
		http.Error(w, "no such blob", http.StatusNotFound)
	case r.Method == http.MethodGet:
		w.Write(content)
	}
}

func (f *fake) Apply(_ context.Context, request *connect.Request[godwitv1.ApplyRequest]) (*connect.Response[godwitv1.ApplyResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	spec := request.Msg.GetService()
	if spec.GetSite() == "north" {
		return nil, api.NewError(connect.CodeFailedPrecondition, "join a host there with 'godwit token create --site north'", "site north has no host")
	}
	if !api.IsBlobName(spec.GetServer().GetKernel()) || f.blobs[spec.GetServer().GetKernel()] == nil {
		return nil, api.NewError(connect.CodeInvalidArgument, "", "server.kernel: there is no blob %q", spec.GetServer().GetKernel())
	}
	outcome := "unchanged"
	if f.services[spec.GetName()] == nil {
		outcome = "created"
		f.services[spec.GetName()] = &godwitv1.Service{
			Spec: spec, Status: &godwitv1.ServiceStatus{Phase: "running", Site: spec.GetSite(), Host: spec.GetSite() + "-host", Epoch: 1},
		}
	}
	if spec.GetName() == "ill" {
		f.services["ill"].Status = &godwitv1.ServiceStatus{Phase: "failed", Site: "west", Message: "qemu: not enough memory"}
	}
	return connect.NewResponse(&godwitv1.ApplyResponse{Service: f.services[spec.GetName()], Outcome: outcome}), nil
}

func (f *fake) Delete(_ context.Context, request *connect.Request[godwitv1.DeleteRequest]) (*connect.Response[godwitv1.DeleteResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if v := f.volumes[request.Msg.GetName()]; v != nil && request.Msg.GetKind() == "volume" {
		if v.GetService() != "" {
			return nil, api.NewError(connect.CodeFailedPrecondition, "godwit delete service shop leaves it; then it can be deleted", "volume %s is in use by service shop", v.GetName())
		}
		delete(f.volumes, v.GetName())
		return connect.NewResponse(&godwitv1.DeleteResponse{}), nil
	}
	if f.services[request.Msg.GetName()] == nil {
		return nil, api.NewError(connect.CodeNotFound, "godwit get services lists them", "there is no service %q", request.Msg.GetName())
	}
	delete(f.services, request.Msg.GetName())
	return connect.NewResponse(&godwitv1.DeleteResponse{}), nil
}

func (f *fake) Get(_ context.Context, request *connect.Request[godwitv1.GetRequest]) (*connect.Response[godwitv1.GetResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var objects []*godwitv1.Object
	switch request.Msg.GetKind() {
	case "service":
		for _, name := range []string{"ill", "shop"} {
			if service := f.services[name]; service != nil && (request.Msg.GetName() == "" || request.Msg.GetName() == name) {
				objects = append(objects, &godwitv1.Object{Kind: &godwitv1.Object_Service{Service: service}})
			}
		}
	case "migration":
		if name := request.Msg.GetName(); name != "" {
			objects = append(objects, &godwitv1.Object{Kind: &godwitv1.Object_Migration{Migration: completed(name)}})
		} else {
			objects = append(
				objects,
				&godwitv1.Object{Kind: &godwitv1.Object_Migration{Migration: completed("shop-1")}},
				&godwitv1.Object{Kind: &godwitv1.Object_Migration{Migration: ready("shop-2")}},
			)
		}
	case "volume":
		if v := f.volumes[request.Msg.GetName()]; v != nil {
			objects = append(objects, &godwitv1.Object{Kind: &godwitv1.Object_Volume{Volume: v}})
			break
		}
		objects = inventory("volume")
	default:
		objects = inventory(request.Msg.GetKind())
	}
	if request.Msg.GetName() != "" && len(objects) == 0 {
		return nil, api.NewError(connect.CodeNotFound, "godwit get "+request.Msg.GetKind()+"s lists them", "there is no %s %q", request.Msg.GetKind(), request.Msg.GetName())
	}
	return connect.NewResponse(&godwitv1.GetResponse{Objects: objects}), nil
}

func (f *fake) Migrate(_ context.Context, request *connect.Request[godwitv1.MigrateRequest]) (*connect.Response[godwitv1.MigrateResponse], error) {
	if request.Msg.GetService() == "nobody" {
		return nil, api.NewError(connect.CodeNotFound, "godwit get services lists them", "there is no service %q", "nobody")
	}
	m := begun(request.Msg.GetService() + "-1")
	if request.Msg.GetDryRun() {
		m.Notes = []string{"memory 256 MiB, disk 64 MiB: some 27 s at 100 Mbit/s"}
	}
	if request.Msg.GetAt() != nil {
		m.Hold, m.HoldUntil = true, request.Msg.GetAt()
	}
	return connect.NewResponse(&godwitv1.MigrateResponse{Migration: m}), nil
}

func (f *fake) Failover(_ context.Context, request *connect.Request[godwitv1.FailoverRequest]) (*connect.Response[godwitv1.FailoverResponse], error) {
	if request.Msg.GetService() == "shaky" { // dies when it has decided, and is asked again by the same name
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.wish == "" {
			f.wish = request.Msg.GetRequest()
			return nil, api.NewError(connect.CodeUnavailable, "", "the controller is gone")
		} else if f.wish != request.Msg.GetRequest() {
			return nil, api.NewError(connect.CodeInternal, "", "it is another wish")
		}
	} else if !request.Msg.GetForce() && request.Msg.GetSnapshot() == "" {
		return nil, api.NewError(connect.CodeFailedPrecondition, "'godwit migrate shop --to east' moves it; --force fails it over all the same", "the agent of west-host answers")
	}
	done := &godwitv1.Failover{
		FromSite: "west", FromHost: "west-host", ToSite: "east", ToHost: "east-host", Epoch: 9, At: after(0), Forced: true,
		Point: 7, PointTime: after(-1250), Mode: "async", Snapshot: request.Msg.GetSnapshot(),
	}
	return connect.NewResponse(&godwitv1.FailoverResponse{Failover: done}), nil
}

// CreateVolume makes volumes: one that is called broken cannot be made, one that is called taken is in use.
func (f *fake) CreateVolume(_ context.Context, request *connect.Request[godwitv1.CreateVolumeRequest]) (*connect.Response[godwitv1.CreateVolumeResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := request.Msg
	outcome := "unchanged"
	if f.volumes[m.GetName()] == nil {
		outcome = "created"
		f.volumes[m.GetName()] = &godwitv1.Volume{Name: m.GetName(), Site: "west", Host: "west-host", Size: m.GetSize(), Role: "primary", Phase: "ready", Standalone: true}
	}
	switch v := f.volumes[m.GetName()]; m.GetName() {
	case "broken":
		v.Phase, v.Error = "failed", "failed: agent west-host: not enough disk space"
	case "taken":
		v.Service = "shop"
	}
	return connect.NewResponse(&godwitv1.CreateVolumeResponse{Outcome: outcome}), nil
}

func (f *fake) ChangeVolume(_ context.Context, request *connect.Request[godwitv1.ChangeVolumeRequest]) (*connect.Response[godwitv1.ChangeVolumeResponse], error) {
	return connect.NewResponse(&godwitv1.ChangeVolumeResponse{Unchanged: request.Msg.GetImage() == ""}), nil
}

func (f *fake) ContinueMigration(_ context.Context, request *connect.Request[godwitv1.ContinueMigrationRequest]) (*connect.Response[godwitv1.ContinueMigrationResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.continued[request.Msg.GetName()] = true
	return connect.NewResponse(&godwitv1.ContinueMigrationResponse{Migration: ready(request.Msg.GetName())}), nil
}

func (f *fake) AbortMigration(_ context.Context, request *connect.Request[godwitv1.AbortMigrationRequest]) (*connect.Response[godwitv1.AbortMigrationResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if request.Msg.GetName() == "late-1" {
		return nil, api.NewError(connect.CodeFailedPrecondition, "wait for it: godwit migration watch late-1", "migration late-1 is committed: the only way is forward")
	}
	f.aborted[request.Msg.GetName()] = request.Msg.GetReason()
	return connect.NewResponse(&godwitv1.AbortMigrationResponse{Migration: begun(request.Msg.GetName())}), nil
}

func (f *fake) CreateToken(_ context.Context, request *connect.Request[godwitv1.CreateTokenRequest]) (*connect.Response[godwitv1.CreateTokenResponse], error) {
	return connect.NewResponse(&godwitv1.CreateTokenResponse{Token: "TOKEN-" + request.Msg.GetRole() + "-" + request.Msg.GetSite() + "-" + request.Msg.GetName()}), nil
}

// WatchMigration plays a script by the service's name: shop completes, stuck is aborted, held is ready until continued, flaky
// loses its controller twice on the way, gone loses it for good and for all.
func (f *fake) WatchMigration(ctx context.Context, request *connect.Request[godwitv1.WatchMigrationRequest], stream *connect.ServerStream[godwitv1.WatchMigrationResponse]) error {
	name := request.Msg.GetName()
	f.mu.Lock()
	f.watches[name]++
	watch, continued, reason := f.watches[name], f.continued[name], f.aborted[name]
	f.mu.Unlock()
	send := func(states ...*godwitv1.Migration) error {
		for _, m := range states {
			if err := stream.Send(&godwitv1.WatchMigrationResponse{Migration: m}); err != nil {
				return err
			}
		}
		return nil
	}
	switch {
	case reason != "":
		return send(begun(name), abortedFor(name, reason))
	case strings.HasPrefix(name, "stuck"):
		return send(begun(name), converging(name), abortedFor(name, "memory changes at 40 MiB/s, the link carries 11 MiB/s"))
	case strings.HasPrefix(name, "held") && !continued:
		if err := send(begun(name), converging(name), ready(name)); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	case strings.HasPrefix(name, "flaky") && watch < 3:
		return errors.Join(send(begun(name), converging(name)), connect.NewError(connect.CodeUnavailable, errors.New("shutting down")))
	default:
		return send(begun(name), converging(name), completed(name))
	}
}
