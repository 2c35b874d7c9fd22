package cli

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	"github.com/clara-suite/clara/proto/gen/clara/ingest/v1/ingestv1connect"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
	"github.com/clara-suite/clara/proto/gen/clara/job/v1/jobv1connect"
)

// uploads stands for ingest: it asks a function what becomes of a file.
type uploads struct {
	ingestv1connect.UnimplementedIngestServiceHandler
	jobv1connect.UnimplementedJobServiceHandler
	take  func(file string) error
	taken []string
	away  error // what calls on jobs get
}

func (u *uploads) StartIngest(context.Context, *ingestv1.StartIngestRequest) (*jobv1.Job, error) {
	return &jobv1.Job{Name: "jobs/1"}, nil
}

func (u *uploads) FinishIngest(context.Context, *ingestv1.FinishIngestRequest) (*jobv1.Job, error) {
	return &jobv1.Job{Name: "jobs/1"}, u.away
}

func (u *uploads) GetJob(context.Context, *jobv1.GetJobRequest) (*jobv1.Job, error) {
	return &jobv1.Job{Name: "jobs/1"}, u.away
}

func (u *uploads) WatchJob(_ context.Context, _ *jobv1.WatchJobRequest, s *connect.ServerStream[jobv1.Job]) error {
	j := &jobv1.Job{Name: "jobs/1", State: jobv1.Job_STATE_SUCCEEDED, ItemCount: int64(len(u.taken)), DoneCount: int64(len(u.taken))}
	for _, f := range u.taken {
		j.Items = append(j.Items, &jobv1.Item{Name: f, Label: f, State: jobv1.Job_STATE_SUCCEEDED})
	}
	return s.Send(j)
}

func (u *uploads) UploadDocument(_ context.Context, s *connect.ClientStream[ingestv1.UploadDocumentRequest]) (*ingestv1.Document, error) {
	file := ""
	for s.Receive() {
		if h := s.Msg().GetHeader(); h != nil {
			file = h.File
		}
	}
	if err := s.Err(); err != nil {
		return nil, err
	}
	if err := u.take(file); err != nil {
		return nil, err
	}
	u.taken = append(u.taken, file)
	return &ingestv1.Document{}, nil
}

// What becomes of a folder when one of its files fails on the way.
func TestIngestGoesOn(t *testing.T) {
	full := connect.NewError(connect.CodeUnavailable, errors.New("the disk is nearly full"))
	gone := connect.NewError(connect.CodeUnavailable, errors.New("nats: connection lost"))
	for _, c := range []struct {
		name  string
		take  func(u *uploads, dir, file string) error
		taken string
		err   string // "": ErrPartial
		shown string
	}{
		{"a file vanishes before it is read", func(_ *uploads, dir, file string) error {
			if file == "a.md" {
				return os.Remove(filepath.Join(dir, "b.md"))
			}
			return nil
		}, "a.md c.md", "", "no such file"},
		{"a file that the disk has no room for", func(_ *uploads, _, file string) error {
			if file == "b.md" {
				return full
			}
			return nil
		}, "a.md c.md", "", "nearly full"},
		{"a service that is away", func(u *uploads, _, file string) error {
			if file == "b.md" {
				u.away = gone
				return gone
			}
			return nil
		}, "a.md", "uploading b.md (2 of 3)", ""},
		{"a service that is away at the end", func(u *uploads, _, file string) error {
			if file == "c.md" {
				u.away = gone
			}
			if file == "b.md" {
				return full
			}
			return nil
		}, "a.md c.md", "2 of 3 files were sent", "b.md: failed: the disk is nearly full"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, f := range []string{"a.md", "b.md", "c.md"} {
				require.NoError(t, os.WriteFile(filepath.Join(dir, f), []byte("# Text\n"), 0o600))
			}
			u := &uploads{}
			u.take = func(file string) error { return c.take(u, dir, file) }
			mux := http.NewServeMux()
			mux.Handle(ingestv1connect.NewIngestServiceHandler(u))
			mux.Handle(jobv1connect.NewJobServiceHandler(u))
			srv := httptest.NewUnstartedServer(mux)
			srv.Config.Protocols = &http.Protocols{}
			srv.Config.Protocols.SetUnencryptedHTTP2(true)
			srv.Start()
			defer srv.Close()

			var out, errs strings.Builder
			err := (&Ingest{Path: []string{dir}, Collection: "docs"}).Run(t.Context(), &Env{Services: Services{Addr: srv.URL}, Out: &out, Err: &errs})
			assert.Equal(t, c.taken, strings.Join(u.taken, " "))
			if c.err == "" {
				require.ErrorIs(t, err, ErrPartial, "%s%s", out.String(), errs.String())
				assert.Contains(t, out.String(), "b.md  failed")
			} else {
				require.ErrorContains(t, err, c.err)
			}
			assert.Contains(t, out.String()+errs.String(), c.shown)
		})
	}
}
