// Package server is the RPC side of synthesis: it checks requests, keeps the
// records of data sets, and hands builds to its Builder.
package server

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clara-suite/clara/libs/blob"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/dataset"
	"github.com/clara-suite/clara/libs/events/job"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
	synthesisv1 "github.com/clara-suite/clara/proto/gen/clara/synthesis/v1"
)

// Models is what the server asks of language models directly, without a data set.
type Models interface {
	Endpoints() []*synthesisv1.ListEndpointsResponse_Endpoint
	// CheckRecipe reports what is wrong with a recipe, an unknown endpoint included. Invalid, State.
	CheckRecipe(r *synthesisv1.Recipe) error
	Describe(ctx context.Context, r *synthesisv1.DescribeImagesRequest) ([]*synthesisv1.DescribeImagesResponse_Description, error)
	Synthesize(ctx context.Context, r *synthesisv1.SynthesizeRequest) ([]*synthesisv1.SynthesizeResponse_Result, error)
}

// Server implements clara.synthesis.v1.SynthesisService. Safe for concurrent use.
type Server struct {
	Log     *slog.Logger
	Records *Records
	Files   *blob.Bucket
	Jobs    *job.Jobs
	JobType string
	Models  Models
	// Enqueue hands a created job to the builders.
	Enqueue func(job string)
	// May reports whether the caller may see a collection.
	May func(ctx context.Context, collection string) bool
	// Exists reports an error for a collection that is not there: NotFound.
	Exists func(ctx context.Context, collection string) error
}

// Spec is what a build's job carries.
type Spec struct {
	Dataset string          `json:"dataset"`
	Recipe  json.RawMessage `json:"recipe"`
}

// ParseSpec reads a job's spec. Corrupt.
func ParseSpec(j *jobv1.Job) (string, *synthesisv1.Recipe, error) {
	var s Spec
	r := &synthesisv1.Recipe{}
	if err := json.Unmarshal(j.GetSpec(), &s); err != nil {
		return "", nil, clara.Errorf(clara.Corrupt, "spec of %s: %w", j.GetName(), err)
	}
	if err := protojson.Unmarshal(s.Recipe, r); err != nil {
		return "", nil, clara.Errorf(clara.Corrupt, "spec of %s: %w", j.GetName(), err)
	}
	return s.Dataset, r, nil
}

// BuildDataset makes a job of a build.
func (s *Server) BuildDataset(ctx context.Context, r *synthesisv1.BuildDatasetRequest) (*jobv1.Job, error) {
	return s.build(ctx, r, true)
}

// BuildAgain is BuildDataset of a data set that is there: NotFound if it was deleted meanwhile.
func (s *Server) BuildAgain(ctx context.Context, r *synthesisv1.BuildDatasetRequest) (*jobv1.Job, error) {
	return s.build(ctx, r, false)
}

func (s *Server) build(ctx context.Context, r *synthesisv1.BuildDatasetRequest, create bool) (*jobv1.Job, error) {
	collection, err := parseCollection(r.Parent)
	if err != nil {
		return nil, err
	}
	id := r.DatasetId
	if id == "" {
		id = "default"
	}
	if err := checkID("data set", id); err != nil {
		return nil, err
	}
	if err := s.Exists(ctx, collection); err != nil {
		return nil, err
	}
	name := Name(collection, id)
	d, err := s.Records.Get(ctx, name)
	if clara.KindOf(err) == clara.NotFound && create {
		now := timestamppb.Now()
		d = &synthesisv1.Dataset{Name: name, State: synthesisv1.Dataset_STATE_PENDING, CreateTime: now, UpdateTime: now, Recipe: &synthesisv1.Recipe{}}
		if err = s.Models.CheckRecipe(r.Recipe); err != nil {
			return nil, err
		}
		if err = s.Records.Create(ctx, d); clara.KindOf(err) == clara.Exists {
			d, err = s.Records.Get(ctx, name)
		}
	}
	if err != nil {
		return nil, err
	}
	recipe := r.Recipe
	if recipe == nil {
		recipe = d.Recipe
	}
	if err := s.Models.CheckRecipe(recipe); err != nil {
		return nil, err
	}
	if d.Job != "" {
		old, err := s.Jobs.Get(ctx, d.Job)
		if err == nil && !job.Ended(old.State) {
			if r.RequestId != "" && old.RequestId == r.RequestId {
				return old, nil
			}
			return nil, clara.Errorf(clara.Conflict, "%s is being built by %s", name, d.Job)
		}
		if err != nil && clara.KindOf(err) != clara.NotFound {
			return nil, err
		}
	}
	raw, err := protojson.Marshal(recipe)
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "encode recipe: %w", err)
	}
	spec, err := json.Marshal(Spec{Dataset: name, Recipe: raw})
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "encode recipe: %w", err)
	}
	j, err := s.Jobs.Create(ctx, &jobv1.Job{Type: s.JobType, Target: "collections/" + collection, Detail: "data set " + id, RequestId: r.RequestId, Spec: spec})
	if err != nil {
		return nil, err
	}
	if _, err := s.Records.Modify(ctx, name, func(d *synthesisv1.Dataset) error {
		d.Job, d.Recipe, d.UpdateTime = j.Name, recipe, timestamppb.Now()
		return nil
	}); err != nil {
		return nil, err
	}
	if !job.Ended(j.State) {
		s.Enqueue(j.Name)
	}
	return j, nil
}

// GetDataset returns a data set.
func (s *Server) GetDataset(ctx context.Context, r *synthesisv1.GetDatasetRequest) (*synthesisv1.Dataset, error) {
	return s.Records.Get(ctx, r.Name)
}

const (
	defaultPage = 100
	maxPage     = 1000
)

// ListDatasets lists those that the caller may see.
func (s *Server) ListDatasets(ctx context.Context, r *synthesisv1.ListDatasetsRequest) (*synthesisv1.ListDatasetsResponse, error) {
	collection := ""
	if r.Parent != "" {
		var err error
		if collection, err = parseCollection(r.Parent); err != nil {
			return nil, err
		}
	}
	all, err := s.Records.List(ctx, collection)
	if err != nil {
		return nil, err
	}
	seen := all[:0]
	for _, d := range all {
		if c, _, err := ParseName(d.Name); err == nil && s.May(ctx, c) {
			seen = append(seen, d)
		}
	}
	size := int(r.PageSize)
	if size <= 0 {
		size = defaultPage
	}
	start := 0
	if r.PageToken != "" {
		if start, err = strconv.Atoi(r.PageToken); err != nil || start < 0 {
			return nil, clara.Errorf(clara.Invalid, "page_token %q is not one that was given out", r.PageToken)
		}
	}
	start = min(start, len(seen))
	end := min(start+min(size, maxPage), len(seen))
	out := &synthesisv1.ListDatasetsResponse{Datasets: seen[start:end]}
	if end < len(seen) {
		out.NextPageToken = strconv.Itoa(end)
	}
	return out, nil
}

// DeleteDataset removes a data set with its files.
func (s *Server) DeleteDataset(ctx context.Context, r *synthesisv1.DeleteDatasetRequest) (*synthesisv1.DeleteDatasetResponse, error) {
	d, err := s.Records.Modify(ctx, r.Name, func(d *synthesisv1.Dataset) error {
		d.Deleted = true
		return nil
	})
	if err != nil {
		return nil, err
	}
	if d.Job != "" {
		if _, err := s.Jobs.Cancel(ctx, d.Job); err != nil && clara.KindOf(err) != clara.NotFound {
			return nil, err
		}
	}
	return &synthesisv1.DeleteDatasetResponse{}, Purge(ctx, s.Files, r.Name)
}

// Prefix is where a data set's blobs lie.
func Prefix(name string) string {
	c, d, err := ParseName(name)
	if err != nil {
		return "datasets/_/" // no data set has this name, so nothing lies there
	}
	return "datasets/" + c + "/" + d + "/"
}

// Purge removes all blobs of a data set.
func Purge(ctx context.Context, files *blob.Bucket, name string) error {
	for e, err := range files.List(ctx, Prefix(name)) {
		if err != nil {
			return err
		}
		if err := files.Delete(ctx, e.Key); err != nil {
			return err
		}
	}
	return nil
}

// FollowDocuments sets whether documents that change lead to a new build.
func (s *Server) FollowDocuments(ctx context.Context, r *synthesisv1.FollowDocumentsRequest) (*synthesisv1.Dataset, error) {
	return s.Records.Modify(ctx, r.Name, func(d *synthesisv1.Dataset) error {
		d.Follow, d.UpdateTime = r.Follow, timestamppb.Now()
		if !r.Follow {
			d.StaleTime = nil
		}
		return nil
	})
}

// Kinds are the kinds of samples by file name; other files are not made of samples.
var kinds = map[string]dataset.Kind{
	"pretrain_data.jsonl": dataset.Pretrain, "instruction_data.jsonl": dataset.Instruction,
	"end_to_end_data.jsonl": dataset.EndToEnd, "clara_training_data.jsonl": dataset.Any,
}

// maxFaults bounds the faults in one message.
const maxFaults = 1000

// ValidateDataset checks one or all of the files.
func (s *Server) ValidateDataset(ctx context.Context, r *synthesisv1.ValidateDatasetRequest) (*synthesisv1.ValidateDatasetResponse, error) {
	d, err := s.Records.Get(ctx, r.Name)
	if err != nil {
		return nil, err
	}
	out := &synthesisv1.ValidateDatasetResponse{Valid: true}
	for _, f := range d.Files {
		kind, samples := kinds[f.File]
		if r.File != "" && r.File != f.File || !samples {
			continue
		}
		in, err := s.Files.Get(ctx, f.Blob)
		if err != nil {
			return nil, err
		}
		report := dataset.Check(in, f.File, kind, int(r.ExpectedTopK))
		in.Close()
		out.Valid = out.Valid && report.OK()
		out.Reports = append(out.Reports, convertReport(report))
	}
	if len(out.Reports) == 0 {
		return nil, clara.Errorf(clara.NotFound, "%s has no file of samples %q", r.Name, r.File)
	}
	return out, nil
}

func convertReport(r dataset.Report) *synthesisv1.ValidateDatasetResponse_Report {
	out := &synthesisv1.ValidateDatasetResponse_Report{
		File: r.File, Samples: int64(r.Samples), Kinds: map[string]int64{}, DocumentsPerSample: map[int32]int64{},
		WithPositives: int64(r.WithPositives), FaultCount: int64(len(r.Faults)),
	}
	for k, n := range r.Kinds {
		out.Kinds[string(k)] = int64(n)
	}
	for k, n := range r.Docs {
		out.DocumentsPerSample[int32(k)] = int64(n)
	}
	for _, f := range r.Faults[:min(len(r.Faults), maxFaults)] {
		out.Faults = append(out.Faults, &synthesisv1.ValidateDatasetResponse_Fault{File: f.File, Line: int32(f.Line), Reason: f.Reason})
	}
	return out
}

// DownloadDataset streams a file.
func (s *Server) DownloadDataset(ctx context.Context, r *synthesisv1.DownloadDatasetRequest, stream *connect.ServerStream[synthesisv1.DownloadDatasetResponse]) error {
	d, err := s.Records.Get(ctx, r.Name)
	if err != nil {
		return err
	}
	var found *synthesisv1.DatasetFile
	var have []string
	for _, f := range d.Files {
		have = append(have, f.File)
		if f.File == r.File {
			found = f
		}
	}
	if found == nil {
		return clara.Errorf(clara.NotFound, "%s has no file %q; it has: %s", r.Name, r.File, strings.Join(have, ", "))
	}
	in, err := s.Files.Get(ctx, found.Blob)
	if err != nil {
		return err
	}
	defer in.Close()
	buf := make([]byte, 256<<10)
	for {
		n, err := in.Read(buf)
		if n > 0 {
			if err := stream.Send(&synthesisv1.DownloadDatasetResponse{Data: buf[:n]}); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return clara.Errorf(clara.Unavailable, "read %s of %s: %w", r.File, r.Name, err)
		}
	}
}

// DescribeImages has pictures described.
func (s *Server) DescribeImages(ctx context.Context, r *synthesisv1.DescribeImagesRequest) (*synthesisv1.DescribeImagesResponse, error) {
	out, err := s.Models.Describe(ctx, r)
	return &synthesisv1.DescribeImagesResponse{Descriptions: out}, err
}

// Synthesize has summaries and pairs made of texts.
func (s *Server) Synthesize(ctx context.Context, r *synthesisv1.SynthesizeRequest) (*synthesisv1.SynthesizeResponse, error) {
	if err := s.Models.CheckRecipe(r.Recipe); err != nil {
		return nil, err
	}
	out, err := s.Models.Synthesize(ctx, r)
	return &synthesisv1.SynthesizeResponse{Results: out}, err
}

// ListEndpoints names the configured endpoints.
func (s *Server) ListEndpoints(context.Context, *synthesisv1.ListEndpointsRequest) (*synthesisv1.ListEndpointsResponse, error) {
	return &synthesisv1.ListEndpointsResponse{Endpoints: s.Models.Endpoints()}, nil
}

// Clone returns a recipe that may be changed.
func Clone(r *synthesisv1.Recipe) *synthesisv1.Recipe {
	if r == nil {
		return &synthesisv1.Recipe{}
	}
	return proto.Clone(r).(*synthesisv1.Recipe)
}
