package pipeline

import (
	"context"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	jobv1 "github.com/clara-suite/clara/proto/gen/clara/job/v1"
	"github.com/clara-suite/clara/services/ingest/internal/catalog"
)

// tell ends an item of a job if its record says that nothing more will come of it there: the work is done, was taken over by
// another job, or is for something that is gone. Records and jobs are stored in two steps; a crash between them, or
// a newer revision, would leave the job moving for ever otherwise.
func (p *Pipeline) tell(ctx context.Context, job string, item *jobv1.Item) error {
	if job == "" {
		return nil
	}
	if _, _, err := catalog.ParseDocument(item.Name); err == nil {
		return p.tellDocument(ctx, job, item)
	}
	if id, err := catalog.ParseCollection(item.Name); err == nil && !strings.Contains(id, "/") {
		return p.tellCollection(ctx, job, item)
	}
	return nil
}

func (p *Pipeline) tellDocument(ctx context.Context, job string, item *jobv1.Item) error {
	d, err := p.Catalog.LiveDocument(ctx, item.Name)
	if err == nil {
		_, err = p.Catalog.LiveCollection(ctx, catalog.CollectionID(item.Name))
	}
	switch {
	case clara.KindOf(err) == clara.NotFound:
		return p.Jobs.Item(ctx, job, cancelledItem(item, "deleted before it was indexed"))
	case err != nil:
		return err
	case d.Job != job:
		return p.Jobs.Item(ctx, job, cancelledItem(item, "taken in again before it was indexed"))
	}
	switch d.State {
	case ingestv1.Document_STATE_READY, ingestv1.Document_STATE_PARTIAL, ingestv1.Document_STATE_FAILED, ingestv1.Document_STATE_CANCELLED:
		return p.Jobs.Item(ctx, job, outcome(d))
	}
	return nil
}

// tellCollection ends a collection's part in the job that moves it to another model.
func (p *Pipeline) tellCollection(ctx context.Context, job string, item *jobv1.Item) error {
	c, err := p.Catalog.LiveCollection(ctx, catalog.CollectionID(item.Name))
	if clara.KindOf(err) == clara.NotFound {
		return p.Jobs.Item(ctx, job, cancelledItem(item, "deleted before it was moved"))
	}
	if err != nil || c.NextJob == job {
		return err
	}
	if c.NextIndex != "" {
		return p.Jobs.Item(ctx, job, cancelledItem(item, "another model was activated meanwhile"))
	}
	return p.Jobs.Item(ctx, job, moved(c, item.GetProgress().GetTotal(), item.GetProgress().GetTotal(), 0))
}

func cancelledItem(item *jobv1.Item, reason string) *jobv1.Item {
	return &jobv1.Item{Name: item.Name, Label: item.Label, State: jobv1.Job_STATE_CANCELLED, Error: reason}
}

// Tell does so for all jobs that move.
func (p *Pipeline) Tell(ctx context.Context) error {
	return p.Jobs.Open(ctx, func(job string, item *jobv1.Item) error { return p.tell(ctx, job, item) })
}
