package dataset

import (
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"maps"
	"unicode/utf8"
)

// SourceImage is the source_type of a described image.
const SourceImage = "image"

// Document is a line of raw_knowledge.jsonl: an extracted document, or the
// description of an image.
type Document struct {
	FilePath        string
	Filename        string
	Content         string // Markdown
	ProductArea     string // name of the parent folder
	ExtractedImages []string
	SourceType      string // SourceImage, or empty
	// Extra holds keys that have no field, and is written back.
	Extra map[string]json.RawMessage
}

// documentFields are the keys of a Document in the order of writing.
type documentFields struct {
	FilePath        string          `json:"file_path"`
	Filename        string          `json:"filename"`
	Content         *string         `json:"content"`
	ProductArea     string          `json:"product_area"`
	ExtractedImages json.RawMessage `json:"extracted_images,omitempty"`
	SourceType      string          `json:"source_type,omitempty"`
}

// MarshalJSON writes the fields in the order of the format, then Extra by name.
func (d Document) MarshalJSON() ([]byte, error) {
	images := d.ExtractedImages
	if images == nil {
		images = []string{}
	}
	rawImages, err := json.Marshal(images)
	if err != nil {
		return nil, err
	}
	out, err := json.Marshal(documentFields{d.FilePath, d.Filename, &d.Content, d.ProductArea, rawImages, d.SourceType})
	if err != nil || len(d.Extra) == 0 {
		return out, err
	}
	extra, err := json.Marshal(d.Extra)
	if err != nil {
		return nil, err
	}
	return append(append(out[:len(out)-1], ','), extra[1:]...), nil
}

// UnmarshalJSON reads a line; extracted_images may hold texts or objects with a path.
func (d *Document) UnmarshalJSON(data []byte) error {
	var f documentFields
	if err := json.Unmarshal(data, &f); err != nil {
		return err
	}
	if f.Content == nil {
		return fmt.Errorf(`"content" is missing`)
	}
	var extra map[string]json.RawMessage
	if err := json.Unmarshal(data, &extra); err != nil {
		return err
	}
	maps.DeleteFunc(extra, func(key string, _ json.RawMessage) bool {
		switch key {
		case "file_path", "filename", "content", "product_area", "extracted_images", "source_type":
			return true
		}
		return false
	})
	if len(extra) == 0 {
		extra = nil
	}
	*d = Document{FilePath: f.FilePath, Filename: f.Filename, Content: *f.Content, ProductArea: f.ProductArea, SourceType: f.SourceType, Extra: extra}
	if len(f.ExtractedImages) == 0 || string(f.ExtractedImages) == "null" {
		return nil
	}
	var items []json.RawMessage
	if err := json.Unmarshal(f.ExtractedImages, &items); err != nil {
		return fmt.Errorf(`"extracted_images" must be a list`)
	}
	for i, item := range items {
		var path string
		if json.Unmarshal(item, &path) != nil {
			var object struct{ Path string }
			if json.Unmarshal(item, &object) != nil || object.Path == "" {
				return fmt.Errorf(`"extracted_images"[%d] is neither a path nor an object with a path`, i)
			}
			path = object.Path
		}
		d.ExtractedImages = append(d.ExtractedImages, path)
	}
	return nil
}

// Documents reads raw_knowledge.jsonl; see Samples for how faults are reported.
func Documents(r io.Reader, name string) iter.Seq2[Document, *Fault] {
	return func(yield func(Document, *Fault) bool) {
		last := 0
		err := lines(r, func(number int, text []byte) bool {
			last = number
			var d Document
			reason := ""
			switch {
			case text == nil:
				reason = fmt.Sprintf("longer than %d bytes", MaxLine)
			case !utf8.Valid(text):
				reason = "not UTF-8"
			default:
				if err := json.Unmarshal(text, &d); err != nil {
					reason = err.Error()
				}
			}
			if reason != "" {
				return yield(Document{}, &Fault{name, number, reason})
			}
			return yield(d, nil)
		})
		if err != nil {
			yield(Document{}, &Fault{name, last + 1, "read: " + err.Error()})
		}
	}
}
