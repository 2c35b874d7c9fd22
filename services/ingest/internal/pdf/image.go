package pdf

import (
	"context"

	"github.com/clara-suite/clara/services/ingest/internal/doc"
)

// imageData is a picture of a page with its bytes.
type imageData struct {
	doc.Image
	data    []byte
	picture *picture
}

// Recognizer reads text in pictures.
type Recognizer interface{}

func newPageReader(in *instance) *pageReader {
	return &pageReader{
		instance: in, fonts: map[uint64]style{}, objects: map[uint64]textObject{},
		tagged: in.callOK(fnCatalogTagged, in.doc),
	}
}

func (r *pageReader) finish(ctx context.Context, rd *reading, page uint64, s *source, l *layout) []imageData {
	if len(s.words) == 0 && (len(s.pictures) > 0 || s.drawn > 20) {
		l.readBy = doc.ByNone
		l.problem = "the page has no text, only pictures, and no OCR is installed"
	}
	return nil
}

func (rd *reading) storeImages(ctx context.Context, t *task) {}
