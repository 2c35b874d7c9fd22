package ingest

import (
	"context"

	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
	"github.com/clara-suite/clara/services/ingest/internal/pipeline"
)

// BeforeReset calls f before an item of a job is opened.
func (s *Service) BeforeReset(f func(*jobv1.Item)) {
	s.pipeline.Jobs = heldJobs{s.pipeline.Jobs, f}
}

type heldJobs struct {
	pipeline.Jobs
	before func(*jobv1.Item)
}

func (j heldJobs) Reset(ctx context.Context, job string, item *jobv1.Item) error {
	j.before(item)
	return j.Jobs.Reset(ctx, job, item)
}
