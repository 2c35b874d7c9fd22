package ingest

import (
	"context"

	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
	"github.com/clara-suite/clara/services/ingest/internal/catalog"
	"github.com/clara-suite/clara/services/ingest/internal/pipeline"
)

// BeforeReset calls f before an item of a job is opened.
func (s *Service) BeforeReset(f func(*jobv1.Item)) {
	s.pipeline.Jobs = heldJobs{s.pipeline.Jobs, f}
}

// Sweep compares records and points once, as if grace were over. It leaves the blobs alone, which without grace would lose what
// is being written.
func (s *Service) Sweep(ctx context.Context) error {
	sweeper := s.sweeper
	sweeper.Grace = 0
	_, err := sweeper.Records(ctx)
	return err
}

// Purge removes what a deleted collection holds, as a sweep does that has seen it some time ago.
func (s *Service) Purge(ctx context.Context, c *ingestv1.Collection) error {
	return s.sweeper.Purge(ctx, c)
}

// Lose puts a document where a lost event leaves it, with a file of this hash and a password if they are given.
func (s *Service) Lose(ctx context.Context, document, hash, password string) error {
	key, err := pipeline.Seal(ctx, s.app.Files, password)
	if err != nil {
		return err
	}
	_, err = s.catalog.PutDocument(ctx, document, func(d *ingestv1.Document) error {
		d.Revision, d.State, d.Owed = catalog.NextRevision(d.Revision), ingestv1.Document_STATE_EXTRACTING, nil
		d.PasswordKey = key
		if hash != "" {
			d.ContentHash = hash
		}
		return nil
	})
	return err
}

type heldJobs struct {
	pipeline.Jobs
	before func(*jobv1.Item)
}

func (j heldJobs) Reset(ctx context.Context, job string, item *jobv1.Item) error {
	j.before(item)
	return j.Jobs.Reset(ctx, job, item)
}
