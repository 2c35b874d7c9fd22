package pipeline

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/events"
	compressorv1 "github.com/clara-suite/clara/proto/gen/clara/compressor/v1"
	"github.com/clara-suite/clara/proto/gen/clara/compressor/v1/compressorv1connect"
	eventv1 "github.com/clara-suite/clara/proto/gen/clara/event/v1"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	"github.com/clara-suite/clara/services/ingest/internal/catalog"
)

// Sweeper compares records, points and blobs from time to time, and puts right what has no partner: it ends what
// a crash left between two steps, and frees what nothing refers to.
type Sweeper struct {
	*Pipeline
	Compressor compressorv1connect.CompressorServiceClient
	// Every is the time between two sweeps, Grace how long something without a partner is left alone: it may be
	// the first half of a step under way, or still in use by a query.
	Every, Grace time.Duration
}

// Run sweeps until ctx ends.
func (s Sweeper) Run(ctx context.Context) error {
	tick := time.NewTicker(s.Every)
	defer tick.Stop()
	// What a crash left between a record and its job is put right at once; people wait for jobs.
	if err := s.Tell(ctx); err != nil && ctx.Err() == nil {
		s.Log.Warn("look after jobs", "err", err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
				s.Log.Warn("sweep", "err", err)
			}
		}
	}
}

// Sweep goes over all collections once, then over the blobs.
func (s Sweeper) Sweep(ctx context.Context) error {
	used, err := s.Records(ctx)
	if err != nil {
		return err
	}
	return s.blobs(ctx, used)
}

// Records goes over all collections once and returns what they refer to: content hashes and keys of blobs.
func (s Sweeper) Records(ctx context.Context) (used map[string]bool, err error) {
	used = map[string]bool{}
	collections, err := s.Catalog.Collections(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range collections {
		if c.Deleted {
			if err := s.Purge(ctx, c); err != nil {
				return nil, err
			}
			continue
		}
		if err := s.retire(ctx, c); err != nil {
			return nil, err
		}
		if err := s.collection(ctx, c, used); err != nil {
			return nil, err
		}
	}
	return used, s.Tell(ctx)
}

// Purge removes everything of a deleted collection: points, then records. Blobs go with the next sweep.
func (s Sweeper) Purge(ctx context.Context, c *ingestv1.Collection) error {
	for _, index := range catalog.CollectionIndexes(c) {
		if _, err := s.Compressor.DropIndex(ctx, &compressorv1.DropIndexRequest{Index: index}); err != nil {
			return err
		}
	}
	return s.Catalog.RemoveCollection(ctx, catalog.CollectionID(c.Name), c.Uid)
}

// retire drops indexes that no query has used for the time of grace.
func (s Sweeper) retire(ctx context.Context, c *ingestv1.Collection) error {
	for _, r := range c.Retired {
		if time.Since(r.Time.AsTime()) < s.Grace || r.Index == c.Index || r.Index == c.NextIndex {
			continue
		}
		if _, err := s.Compressor.DropIndex(ctx, &compressorv1.DropIndexRequest{Index: r.Index}); err != nil {
			return err
		}
		if _, err := s.Catalog.ModifyCollection(ctx, catalog.CollectionID(c.Name), func(c *ingestv1.Collection) error {
			c.Retired = slices.DeleteFunc(c.Retired, func(x *ingestv1.Retired) bool { return x.Index == r.Index })
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// collection ends deletions, revives documents that nobody works on, and repairs the index in use.
func (s Sweeper) collection(ctx context.Context, c *ingestv1.Collection, used map[string]bool) error {
	id := catalog.CollectionID(c.Name)
	docs, err := s.Catalog.Documents(ctx, id)
	if err != nil {
		return err
	}
	var expected []*compressorv1.Expected
	byID := map[string]*ingestv1.Document{}
	for _, d := range docs {
		idle := time.Since(d.UpdateTime.AsTime()) > s.Grace
		switch d.State {
		case ingestv1.Document_STATE_DELETED:
			if idle {
				_, document, _ := catalog.ParseDocument(d.Name)
				_, err := s.Compressor.DeletePoints(ctx, &compressorv1.DeletePointsRequest{Collection: id, Document: document, Indexes: append(catalog.Indexes(d), catalog.CollectionIndexes(c)...)})
				if err == nil {
					err = s.Catalog.RemoveDocument(ctx, d.Name)
				}
				if err != nil {
					return err
				}
			}
			continue
		case ingestv1.Document_STATE_RECEIVED, ingestv1.Document_STATE_EXTRACTING, ingestv1.Document_STATE_INDEXING:
			if idle {
				s.revive(ctx, d, c)
			}
		}
		used[d.ContentHash] = true
		if len(d.PasswordKey) > 0 {
			used[sealedKey(d.PasswordKey)] = true
		}
		_, document, _ := catalog.ParseDocument(d.Name)
		byID[document] = d
		for _, p := range d.Placements {
			used[p.PassageSet] = true
			if p.Index == c.Index && p.Indexed && (d.State == ingestv1.Document_STATE_READY || d.State == ingestv1.Document_STATE_PARTIAL) {
				expected = append(expected, &compressorv1.Expected{Document: document, Revision: d.Revision, Passages: p.Passages})
			} else if p.Index == c.Index {
				// Work in progress: whatever points there are stay.
				expected = append(expected, &compressorv1.Expected{Document: document, Revision: d.Revision, Passages: -1})
			}
		}
		if len(d.Placements) == 0 {
			expected = append(expected, &compressorv1.Expected{Document: document, Revision: d.Revision, Passages: -1})
		}
	}
	if c.NextIndex != "" {
		// A document that failed, or was deleted, meanwhile may be what the move has waited for.
		if err := s.move(ctx, c); err != nil {
			return ignoreNotFound(err)
		}
	}
	report, err := s.Compressor.SweepIndex(ctx, &compressorv1.SweepIndexRequest{Collection: id, Index: c.Index, Expected: expected, Repair: true})
	if err != nil {
		return ignoreNotFound(err)
	}
	if len(report.Orphans) > 0 {
		s.Log.Warn("points without a document removed", "collection", id, "documents", len(report.Orphans))
	}
	for _, document := range report.Incomplete {
		if d := byID[document]; d != nil {
			s.Log.Warn("document with missing points: indexing it again", "document", d.Name)
			s.revive(ctx, d, c)
		}
	}
	return nil
}

// revive asks again for the step that a document waits for.
func (s Sweeper) revive(ctx context.Context, d *ingestv1.Document, c *ingestv1.Collection) {
	_, _, err := s.Catalog.ModifyDocument(ctx, d.Name, d.Revision, func(d *ingestv1.Document) error {
		if len(d.Owed) > 0 {
			return events.Unchanged
		}
		collection, document, _ := catalog.ParseDocument(d.Name)
		if len(d.Placements) == 0 || unread(d) {
			catalog.Owe(d, &eventv1.IngestRequested{Collection: collection, Document: document, Uri: "blob:" + d.ContentHash, File: d.File, Job: d.Job, Revision: d.Revision})
			return nil
		}
		for _, p := range d.Placements {
			if p.Index == c.Index || p.Index == c.NextIndex {
				p.Indexed, p.Error = false, ""
				catalog.Owe(d, s.ready(d, c, p))
			}
		}
		return nil
	})
	if err != nil {
		s.Log.Warn("revive document", "document", d.Name, "err", err)
	}
}

// blobs deletes what no record refers to.
func (s Sweeper) blobs(ctx context.Context, used map[string]bool) error {
	for _, prefix := range []string{"files/", "extracts/", "images/", "passages/", "secrets/"} {
		for b, err := range s.Files.List(ctx, prefix) {
			if err != nil {
				return err
			}
			rest := strings.TrimPrefix(b.Key, prefix)
			content := rest[:min(64, len(rest))] // SHA-256 in hex begins all of these but passages and secrets
			if used[b.Key] || used[content] || time.Since(b.ModTime) < s.Grace {
				continue
			}
			if err := s.Files.Delete(ctx, b.Key); err != nil && clara.KindOf(err) != clara.NotFound {
				return err
			}
		}
	}
	return nil
}
